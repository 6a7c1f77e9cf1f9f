"""The outputs of each block, converted to images by an autoencoder's decoder (Figures 28 to 34 of the thesis)."""
