//go:build tools

// Package tools names the programs that the tests build from Go modules.
package tools

import _ "github.com/containernetworking/cni/cnitool"
