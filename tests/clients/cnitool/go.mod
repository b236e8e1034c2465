// Pins the version of libcni's client, a test tool.
module viaduct/tests/cnitool

go 1.21

require github.com/containernetworking/cni v1.3.0
