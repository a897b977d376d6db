"""What agents learn: rewards, experience, losses, trainer, gate, and the loop that closes over them."""
