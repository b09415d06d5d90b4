"""The page kit: sections, figures, pictures and words that every page uses."""
