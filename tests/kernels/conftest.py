"""Where the tests of the Triton kernels run.

Triton decides when it is imported whether it interprets, for the whole process, and then compiles
nothing; torch and DeepSpeed import it too. So the tests in `interpreted` are collected only where
AGEHPC_KERNELS_ON says where their kernels run: test_triton.py starts a pytest with it.
"""

import os

collect_ignore = [] if "AGEHPC_KERNELS_ON" in os.environ else ["interpreted"]
