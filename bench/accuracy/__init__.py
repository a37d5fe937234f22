"""What the method gains, on drawn faces and on FER+."""
