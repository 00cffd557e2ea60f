"""What pages and pictures are made of: small images, a style sheet, the frame of an HTML page."""
