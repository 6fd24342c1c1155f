from aproarray.cpu._settle import SEEDS_AT_ONCE as SEEDS_AT_ONCE
from aproarray.cpu._settle import Evidence as Evidence
from aproarray.cpu._settle import survey as survey
