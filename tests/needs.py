"""What some tests need and a machine may lack: the skip says why, in the words that a user gets."""

import pytest

from workbench.models import pretrained

encoder = pytest.mark.skipif(bool(pretrained.why_not()), reason=" ".join(pretrained.why_not()))
