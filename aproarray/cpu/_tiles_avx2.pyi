from aproarray.cpu._tiles import solve_tiles as solve_tiles
