from aproarray.cpu._stream import pair_up as pair_up
from aproarray.cpu._stream import stream as stream
