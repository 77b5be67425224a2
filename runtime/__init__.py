"""The edge: source -> canvas -> tiles -> sites -> global stage -> masks -> sinks.

Needs neither torch nor segment_anything.
"""

import os

# Numpy reads it when it is first imported. The products of runtime.objects.tracking are many and small:
# threads of OpenBLAS make them no faster, and wait for the next one by spinning, which took half of the
# processor.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
