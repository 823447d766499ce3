"""Scripts that write parts of the pages here: tables, drawings, the API reference."""
