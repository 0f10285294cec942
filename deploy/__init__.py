"""Makes the packages that btfeed is installed from: wheels, the offline bundle, the Debian package. make calls it."""
