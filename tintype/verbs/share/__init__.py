"""What leaves this machine: model cards, a hub, one zip file."""
