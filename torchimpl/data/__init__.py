"""The data sets that the papers train and test on."""
