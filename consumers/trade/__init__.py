"""The pure fold that decides; its transactional runner."""
