"""What people look at: pictures, tables of runs, one HTML page. Reads folders, changes nothing in them."""
