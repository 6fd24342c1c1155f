from aproarray.cpu._sweep import MAX_COLUMNS as MAX_COLUMNS
from aproarray.cpu._sweep import Stack as Stack
from aproarray.cpu._sweep import affinities as affinities
from aproarray.cpu._sweep import gather as gather
from aproarray.cpu._sweep import scatter as scatter
from aproarray.cpu._sweep import sweep as sweep
