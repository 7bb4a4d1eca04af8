"""tensorlite: a small deep-learning framework with PyTorch's names."""
from tensorlite.dtypes import *  # noqa
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.modes import *
from tensorlite import ops, autograd
from tensorlite.autograd import printing
import importlib, pkgutil, tensorlite.ops as _o
for _m in pkgutil.iter_modules(_o.__path__):
    try:
        _mod = importlib.import_module("tensorlite.ops."+_m.name)
    except Exception as e:
        print("SKIP", _m.name, e); continue
    for k,v in vars(_mod).items():
        if not k.startswith("_") and not k.endswith("_p") and callable(v) and getattr(v,"__module__","").startswith("tensorlite.ops"):
            globals()[k]=v
def __getattr__(name):
    if name in ("nn","optim","utils","vision","io"):
        return importlib.import_module("tensorlite."+name)
    raise AttributeError(name)
