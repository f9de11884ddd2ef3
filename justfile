# Short names for common commands.

# what continuous integration runs
check:
    bash .ci/run

# types of the cuda backend, before a release: its dependencies are too many for every change, and but
# for its name it is the same code as wgpu's, which is tested
cuda:
    DOCS_RS=1 cargo check --no-default-features --features cuda --target-dir target/cuda

# all tests
test *args:
    cargo test --workspace --features train {{args}}

# documentation
doc *args:
    cargo doc --workspace --no-deps --features train {{args}}

# format all sources
fmt:
    git ls-files -z '*.rs' | xargs -0 rustfmt --edition 2024

# compute the fixtures anew (--check: compare only)
fixtures *args:
    python3 tools/reference/make_fixtures.py {{args}}

# test the converter of pickles (needs torch, safetensors, numpy, packaging)
converter:
    python3 tools/test_convert_pickle.py

# train the shapes model
train *args:
    cargo run --release --features train --example train -- --preset shapes {{args}}

# licenses and advisories of dependencies
deny:
    cargo deny check

# spelling
typos:
    typos
