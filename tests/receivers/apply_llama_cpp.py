"""Steers a GGUF model in llama.cpp and writes its logits; runs in the environment of requirements-llama-cpp.txt.

The wheel's Python interface takes no control vectors, but its library exports what llama-cli and llama-server call for
--control-vector-scaled: common_control_vector_load() reads and adds up the files, llama_set_adapter_cvec() applies them.

Standard input is JSON: "model"; "tokens", a list; "blocks", their number; "width", of the residual stream; "settings", a
list of lists of [file, scale]. For each list, the logits after every token go to standard output, in float32.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

F32 = 0  # enum ggml_type
FLASH_ATTENTION_OFF = 0  # enum llama_flash_attn_type


class Opaque(ctypes.Structure):
    """Room for a structure that is passed by value and of which only the beginning is known here."""

    _fields_ = [("bytes", ctypes.c_uint64 * 64)]


class ContextParameters(ctypes.Structure):
    """struct llama_context_params of include/llama.h."""

    _fields_ = [
        *[(name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max",
                                               "n_outputs_max_per_seq")],
        ("n_threads", ctypes.c_int32), ("n_threads_batch", ctypes.c_int32),
        *[(name, ctypes.c_int) for name in ("ctx_type", "rope_scaling_type", "pooling_type", "attention_type",
                                            "flash_attn_type")],
        *[(name, ctypes.c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor",
                                              "yarn_beta_fast", "yarn_beta_slow")],
        ("yarn_orig_ctx", ctypes.c_uint32), ("defrag_thold", ctypes.c_float),
        ("cb_eval", ctypes.c_void_p), ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int), ("type_v", ctypes.c_int), ("rest", ctypes.c_uint64 * 32)]


class Batch(ctypes.Structure):
    """struct llama_batch of include/llama.h."""

    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


class LoadInfo(ctypes.Structure):
    """struct common_control_vector_load_info of common/common.h."""

    _fields_ = [("strength", ctypes.c_float), ("fname", ctypes.c_void_p)]


class Vector(ctypes.Structure):
    """std::vector of libstdc++."""

    _fields_ = [("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p)]


class LoadedData(ctypes.Structure):
    """struct common_control_vector_data of common/common.h."""

    _fields_ = [("n_embd", ctypes.c_int), ("data", Vector)]


def load_library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(find_spec("xllamacpp").origin).parent / "xllamacpp.abi3.so"))
    for name, result, arguments in (
            ("llama_model_default_params", Opaque, []), ("llama_context_default_params", ContextParameters, []),
            ("llama_model_load_from_file", ctypes.c_void_p, [ctypes.c_char_p, Opaque]),
            ("llama_init_from_model", ctypes.c_void_p, [ctypes.c_void_p, ContextParameters]),
            ("llama_model_get_vocab", ctypes.c_void_p, [ctypes.c_void_p]),
            ("llama_vocab_n_tokens", ctypes.c_int32, [ctypes.c_void_p]),
            ("llama_model_n_layer", ctypes.c_int32, [ctypes.c_void_p]),
            ("llama_set_adapter_cvec", ctypes.c_int32,
             [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
            ("llama_batch_init", Batch, [ctypes.c_int32] * 3), ("llama_decode", ctypes.c_int32, [ctypes.c_void_p, Batch]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p, ctypes.c_int32]),
            ("llama_free", None, [ctypes.c_void_p])):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def text(path: str) -> ctypes.Array:
    """What a std::string of libstdc++'s older ABI, with which the wheel is built, points into: length, capacity, and
    number of owners, then the characters."""
    characters = os.fsencode(path)
    head = struct.pack("@NNi4x", len(characters), len(characters), 0)
    return ctypes.create_string_buffer(head + characters)


TEXT_HEAD = struct.calcsize("@NNi4x")


def load_files(library: ctypes.CDLL, files: list[list]) -> LoadedData:
    """The sum of the files, each times its scale. It is never freed, as this program is short."""
    texts = [text(path) for path, _ in files]
    infos = (LoadInfo * len(files))(*(LoadInfo(scale, ctypes.addressof(buffer) + TEXT_HEAD)
                                      for buffer, (_, scale) in zip(texts, files, strict=True)))
    begin = ctypes.addressof(infos)
    end = begin + ctypes.sizeof(infos)
    given = Vector(begin, end, end)
    load = library["_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"]
    loaded = LoadedData()
    # A result that is not trivially copyable goes to a place whose address is the first argument.
    load.restype, load.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p]
    load(ctypes.addressof(loaded), ctypes.addressof(given))
    assert loaded.n_embd > 0, f"refused: {files}"
    return loaded


def logits(library: ctypes.CDLL, model: int, tokens: list[int], files: list[list]):
    """Yields the logits after each token, as bytes."""
    parameters = library.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = parameters.n_outputs_max = 256
    parameters.n_outputs_max_per_seq = 256
    parameters.n_threads = parameters.n_threads_batch = 1
    parameters.type_k = parameters.type_v = F32
    parameters.flash_attn_type = FLASH_ATTENTION_OFF
    context = library.llama_init_from_model(model, parameters)
    assert context, "no context"
    if files:
        loaded = load_files(library, files)
        bytes_given = loaded.data.end - loaded.data.begin
        code = library.llama_set_adapter_cvec(context, loaded.data.begin, bytes_given // ctypes.sizeof(ctypes.c_float),
                                              loaded.n_embd, 1, library.llama_model_n_layer(model))
        assert code == 0, f"llama_set_adapter_cvec: {code}"
    batch = library.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place], batch.pos[place] = token, place
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        batch.logits[place] = 1
    code = library.llama_decode(context, batch)
    assert code == 0, f"llama_decode: {code}"
    count = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    for place in range(len(tokens)):
        yield ctypes.string_at(library.llama_get_logits_ith(context, place), count * ctypes.sizeof(ctypes.c_float))
    library.llama_free(context)


def main() -> None:
    job = json.load(sys.stdin)
    library = load_library()
    library.llama_backend_init()
    model = library.llama_model_load_from_file(os.fsencode(job["model"]), library.llama_model_default_params())
    assert model, f"{job['model']}: not loaded"
    for files in job["settings"]:
        for row in logits(library, model, job["tokens"], files):
            sys.stdout.buffer.write(row)


if __name__ == "__main__":
    main()
