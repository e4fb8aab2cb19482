"""Golden vectors: outputs of the published networks on seeded weights, and the program that checks ours against them.

    python -m tests.golden tests/golden/superglobal/*.json
    python -m tests.golden --emit out.json tests/golden/superglobal/rerank_small_m_seed0.json

The folder of a case names its system; `tests/golden/<system>/__init__.py` computes its outputs with the classes users get.
"""
