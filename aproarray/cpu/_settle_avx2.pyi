from aproarray.cpu._settle import Evidence as Evidence
