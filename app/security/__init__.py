"""Security: middleware, the route guard and authentication; imports no torch."""
