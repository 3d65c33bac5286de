# The verbs live in scripts/dev, so that nothing needs just to be installed.

# List the verbs.
default:
    @just --list

# Install what building and testing need.
setup:
    scripts/dev setup

# Format the sources.
fmt:
    scripts/dev fmt

# Formatting, clippy, syntax of the scripts.
lint:
    scripts/dev lint

# All tests.
test *ARGS:
    scripts/dev test {{ARGS}}

# A short run of the decoders' fuzz targets.
fuzz-short:
    scripts/dev fuzz-short

# Licences, advisories and sources of the dependencies.
deny:
    scripts/dev deny

# The tests at full size.
full:
    scripts/dev full

# Show that the kill test, fsx and the comparison with ext4 find planted bugs.
planted:
    scripts/dev planted

# Make the inputs of the coding workload.
inputs SIZE="small":
    scripts/dev inputs {{SIZE}}

# Benchmarks beside other file systems.
bench *ARGS:
    scripts/dev bench {{ARGS}}

# What CI runs.
ci:
    .ci/run
