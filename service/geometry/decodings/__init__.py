"""What each block makes of an image, shown by an autoencoder's decoder (Figures 28 to 34 of the thesis)."""
