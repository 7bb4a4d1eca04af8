"""``tensorlite.cuda``: GPUs, their streams, events, memory and generators, by PyTorch's names. Floor 7.

Asking whether there is a GPU never raises and never starts one; everything else says what is missing where it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tensorlite.backends import Device, backend, cuda as _cuda, located
from tensorlite.errors import DeviceError, OutOfMemoryError as OutOfMemoryError
from tensorlite.ops.random import Generator, generator_of, seed_gpus


def is_available() -> bool:
    """Whether tensors can be put on a GPU."""
    return device_count() > 0


def device_count() -> int:
    """How many GPUs can hold tensors."""
    return _cuda.device_count()


def current_device() -> int:
    """The index of the GPU that "cuda" means now, in this thread."""
    return _index(None)


def _index(device: Any) -> int:
    """The index of a device given as PyTorch takes them: None, a number, a name, a device."""
    index = located(Device("cuda", device) if isinstance(device, int) else device or "cuda").index
    if index is None:
        raise ValueError(f"cuda: got device {device!r}; expected a cuda device")
    return index


def _there(device: Any) -> Any:
    return backend(Device("cuda", _index(device)))


def set_device(device: Any) -> None:
    """Let "cuda" mean another GPU from now on, in this thread."""
    _there(device).here().use()


class device:
    """A context in which "cuda" means another GPU: ``with tl.cuda.device(1): ...``."""

    def __init__(self, device: Any):
        self.idx = _index(device)
        self._before: list = []

    def __enter__(self) -> device:
        here = _there(self.idx).here()
        here.__enter__()
        self._before.append(here)
        return self

    def __exit__(self, *error: Any) -> None:
        self._before.pop().__exit__(*error)


def synchronize(device: Any = None) -> None:
    """Wait until a GPU has done all that was asked of it; raises the IndexError that a kernel noted, if any."""
    _there(device).synchronize()


# ---- what there is
class Properties(NamedTuple):
    """What a GPU is: sizes in bytes."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int


def get_device_properties(device: Any = None) -> Properties:
    """Name, compute capability, memory and number of multiprocessors of a GPU."""
    found = _cuda.arrays().cuda.runtime.getDeviceProperties(_index(device))
    name = found["name"].decode() if isinstance(found["name"], bytes) else found["name"]
    return Properties(name, found["major"], found["minor"], found["totalGlobalMem"], found["multiProcessorCount"])


def get_device_name(device: Any = None) -> str:
    """The name of a GPU."""
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability of a GPU: (9, 0)."""
    found = get_device_properties(device)
    return found.major, found.minor


def is_bf16_supported() -> bool:
    """Whether kernels take bfloat16: on every GPU that ours run on (compute capability 8.0 and up)."""
    return is_available() and get_device_capability()[0] >= 8


# ---- streams and events
class Stream:
    """A queue of work on a GPU. Work on two streams may overlap; ``with tl.cuda.stream(s): ...`` queues on ``s``."""

    def __init__(self, device: Any = None, priority: int = 0, _stream: Any = None):
        self.device = Device("cuda", _index(device))
        with _there(device).here():
            self._stream = _cuda.arrays().cuda.Stream(non_blocking=True) if _stream is None else _stream

    @property
    def cuda_stream(self) -> int:
        """The driver's handle."""
        return self._stream.ptr

    def synchronize(self) -> None:
        """Wait until all work of this stream is done."""
        self._stream.synchronize()

    def query(self) -> bool:
        """Whether all work of this stream is done."""
        return self._stream.done

    def wait_event(self, event: Event) -> None:
        """Let the work that follows on this stream wait for an event."""
        self._stream.wait_event(event._event)

    def wait_stream(self, stream: Stream) -> None:
        """Let the work that follows on this stream wait for all that is on another now."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Event | None = None) -> Event:
        """Note this place in the stream."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream and other.device is self.device

    def __hash__(self) -> int:
        return hash((self.cuda_stream, self.device))


class Event:
    """A place in a stream: waited for, asked after, and with ``enable_timing`` a clock on the GPU."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        if interprocess:
            raise NotImplementedError("Event: interprocess=True is not supported; wanted False")
        self._timed = enable_timing
        self._event = _cuda.arrays().cuda.Event(block=blocking, disable_timing=not enable_timing)

    def record(self, stream: Stream | None = None) -> None:
        """Note the place that a stream has come to."""
        self._event.record((current_stream() if stream is None else stream)._stream)

    def wait(self, stream: Stream | None = None) -> None:
        """Let the work that follows on a stream wait for this event."""
        (current_stream() if stream is None else stream).wait_event(self)

    def synchronize(self) -> None:
        """Wait until the work before this event is done."""
        self._event.synchronize()

    def query(self) -> bool:
        """Whether the work before this event is done."""
        return self._event.done

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds on the GPU from this event to another."""
        if not (self._timed and end_event._timed):
            raise ValueError("elapsed_time: both events should be created with enable_timing=True")
        return _cuda.arrays().cuda.get_elapsed_time(self._event, end_event._event)


def current_stream(device: Any = None) -> Stream:
    """The stream that work goes to now."""
    return Stream(device, _stream=_cuda.arrays().cuda.get_current_stream())


def default_stream(device: Any = None) -> Stream:
    """The stream that work goes to unless another is chosen."""
    return Stream(device, _stream=_cuda.arrays().cuda.Stream.null)


class stream:
    """A context in which work goes to a stream; None changes nothing."""

    def __init__(self, stream: Stream | None):
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            self.stream._stream.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.stream is not None:
            self.stream._stream.__exit__(*error)


def set_stream(stream: Stream) -> None:
    """Let work go to this stream from now on, in this thread."""
    stream._stream.use()


# ---- memory
def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors on a GPU hold."""
    with _there(device).here():
        return _cuda.arrays().get_default_memory_pool().used_bytes()


def memory_reserved(device: Any = None) -> int:
    """Bytes that tensors on a GPU hold or that are kept for the next ones."""
    with _there(device).here():
        return _cuda.arrays().get_default_memory_pool().total_bytes()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, by its driver."""
    with _there(device).here():
        free, total = _cuda.arrays().cuda.runtime.memGetInfo()
    return free, total


def empty_cache() -> None:
    """Give memory that is kept for later tensors back to the driver; without a GPU there is none."""
    if is_available():
        _cuda.arrays().get_default_memory_pool().free_all_blocks()
        _cuda.arrays().get_default_pinned_memory_pool().free_all_blocks()


# ---- random numbers
def manual_seed(seed: int) -> None:
    """Start the current GPU's generator over; without a GPU the seed is kept for one, as in PyTorch."""
    if is_available():
        generator_of(located("cuda")).manual_seed(seed)
    else:
        seed_gpus(seed)


def manual_seed_all(seed: int) -> None:
    """Start the generators of all GPUs over; without a GPU the seed is kept for one, as in PyTorch."""
    seed_gpus(seed)


def seed() -> None:
    """Start the current GPU's generator over from a seed that the operating system gives."""
    manual_seed(Generator().seed())


def initial_seed() -> int:
    """The seed of the current GPU's generator."""
    return generator_of(located("cuda")).initial_seed()


def get_rng_state(device: Any = "cuda") -> Any:
    """The state of a GPU's generator, a tensor on the CPU."""
    return generator_of(Device("cuda", _index(device))).get_state()


def set_rng_state(new_state: Any, device: Any = "cuda") -> None:
    """Continue a GPU's generator from a state that ``get_rng_state`` gave."""
    generator_of(Device("cuda", _index(device))).set_state(new_state)


def is_initialized() -> bool:
    """Whether GPUs can be used: they are started when first used."""
    return is_available()


def init() -> None:
    """Start the GPUs, or say what is missing."""
    if not is_available():
        raise DeviceError(f"cuda.init: no GPU can be used; {_cuda.WANTED}")
    synchronize()


def __getattr__(name: str) -> Any:
    if name != "amp":  # imported when first named: it brings the optimizers
        raise AttributeError(f"module 'tensorlite.cuda' has no attribute {name!r}")
    from importlib import import_module

    return import_module("tensorlite.cuda.amp")
