"""Reports: a window's figures as HTML, JSON and Evidently pages."""
