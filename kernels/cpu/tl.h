// What every kernel file stands on: arrays as they come from Python, and how a kernel registers itself.
//
// A kernel is reached through a factory, called once for each new combination of shapes, dtypes and constants:
//     factory(specs, outs, constants) -> callable(*arrays)
// The callable is a bare CPython function with the constants bound to it, so that a call costs 60 ns, not the
// 3 us of converting arguments to array_t. Arrays are contiguous and of the dtypes that the op's Python side promised.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace tl {

namespace py = pybind11;

// The first element of a NumPy array.
template <class T>
T* data(PyObject* array) {
    return reinterpret_cast<T*>(py::detail::array_proxy(array)->data);
}

// Wraps `body(PyObject* const* arrays)` as a Python callable of exactly `count` arrays; it gives what the body gives (a
// new reference), or None.
template <class Body>
py::object bind(Py_ssize_t count, Body body) {
    struct Bound {
        Py_ssize_t count;
        Body body;
    };
    static PyMethodDef def = {
        "kernel",
        reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(
            +[](PyObject* self, PyObject* const* args, Py_ssize_t n) -> PyObject* {
                auto* bound = static_cast<Bound*>(PyCapsule_GetPointer(self, nullptr));
                if (n != bound->count) {
                    PyErr_Format(PyExc_TypeError, "kernel: got %zd arrays; wanted %zd", n, bound->count);
                    return nullptr;
                }
                for (Py_ssize_t k = 0; k < n; ++k)
                    if (args[k] != Py_None && !py::detail::npy_api::get().PyArray_Check_(args[k])) {
                        PyErr_Format(PyExc_TypeError, "kernel: argument %zd is %s; wanted an array", k,
                                     Py_TYPE(args[k])->tp_name);
                        return nullptr;
                    }
                try {
                    if constexpr (std::is_same_v<decltype(bound->body(args)), PyObject*>)
                        return bound->body(args);
                    else
                        bound->body(args);
                } catch (py::error_already_set& error) {  // a body refuses its values by raising
                    error.restore();
                    return nullptr;
                }
                Py_RETURN_NONE;
            })),
        METH_FASTCALL, nullptr};
    PyObject* capsule = PyCapsule_New(new Bound{count, std::move(body)}, nullptr, [](PyObject* c) {
        delete static_cast<Bound*>(PyCapsule_GetPointer(c, nullptr));
    });
    if (!capsule) throw py::error_already_set();
    PyObject* function = PyCFunction_New(&def, capsule);
    Py_DECREF(capsule);
    if (!function) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(function);
}

// Lets a body that takes long run without the interpreter's lock; short ones keep it, since letting go costs 100 ns.
struct Unlock {
    PyThreadState* state = nullptr;
    explicit Unlock(std::int64_t elements) {
        if (elements > 1 << 14) state = PyEval_SaveThread();
    }
    ~Unlock() {
        if (state) PyEval_RestoreThread(state);
    }
};

inline std::vector<std::int64_t> shape(py::handle spec) {
    std::vector<std::int64_t> sizes;
    for (py::handle n : spec.attr("shape")) sizes.push_back(n.cast<std::int64_t>());
    return sizes;
}

inline bool is_double(py::handle spec) { return spec.attr("dtype").attr("itemsize").cast<int>() == 8; }

using Factory = py::object (*)(py::tuple specs, py::tuple outs, py::dict constants);

// A static Registrar in a kernel's file puts it into the module: `static Registrar r("softmax", make_softmax);`
struct Registrar {
    static std::vector<std::pair<const char*, Factory>>& all() {
        static std::vector<std::pair<const char*, Factory>> table;
        return table;
    }
    Registrar(const char* name, Factory factory) { all().emplace_back(name, factory); }
};

}  // namespace tl
