"""Scripts that generate parts of the documentation: tables, drawings, the API reference."""
