// Pins the oldest libcni whose client drives the plugin in the tests.
module viaduct/tests/cnitool

go 1.21

require github.com/containernetworking/cni v1.1.2
