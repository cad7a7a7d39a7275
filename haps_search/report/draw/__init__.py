"""From computed values to inline SVG; nothing is computed here but places on the page."""
