// Package internal_test keeps the house's floors: which package may import
// which. The picture is in ARCHITECTURE.md.
package internal_test

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors is the house, lowest floor first. A package may import packages on
// floors below its own and nothing beside or above it.
var floors = [][]string{
	{"invariant", "vfs", "sd", "freeport", "sender"}, // tools
	{"listen", "store", "wal", "credential"},         // devices
	{"mvcc", "lease", "auth", "member"},              // model: no goroutine, no lock, no I/O
	{"state"},                                        // machine: the same
	{"replica", "peer", "watch"},                     // engine
	{"api", "gateway", "upkeep", "proxy", "relay"},   // service
	{"bootstrap"},                                    // birth
	{"config", "offline"},                            // settings; files of who does not run
	{"daemon"},                                       // assembly
}

// pure lists what the model and the machine must not reach for.
var pure = []string{"os", "net", "sync", "math/rand", "math/rand/v2", "crypto/rand", "log/slog"}

// protocol says who may name gRPC and etcd's API: the model knows only
// mvccpb.KeyValue, and status codes are decided on the service floor.
var protocol = map[string]int{
	"google.golang.org/grpc":                  5,
	"go.etcd.io/etcd/api/v3/etcdserverpb":     3,
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes":   5,
	"go.etcd.io/etcd/api/v3/authpb":           2,
	"go.etcd.io/etcd/client/v3":               6,
	"go.etcd.io/etcd/api/v3/mvccpb":           2,
	"github.com/prometheus/client_golang":     1,
	"github.com/coreos/go-systemd":            0,
	"go.etcd.io/bbolt":                        1,
	"go.etcd.io/raft/v3":                      1,
	"github.com/spf13/pflag":                  7,
	"github.com/BurntSushi/toml":              7,
	"go.yaml.in/yaml/v3":                      7,
	"github.com/soheilhy/cmux":                1,
	"github.com/tidwall/btree":                2,
	"github.com/coreos/go-systemd/v22/unit":   0,
	"github.com/coreos/go-systemd/v22/daemon": 0,
}

func TestFloors(t *testing.T) {
	floor := map[string]int{}
	for i, names := range floors {
		for _, name := range names {
			floor[name] = i
		}
	}
	files, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		name := filepath.Dir(file)
		at, known := floor[name]
		if !known {
			t.Errorf("%s: no floor for it; add it to the table", name)
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		documented[name] = documented[name] || f.Doc != nil
		for _, spec := range f.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if dep, ours := strings.CutPrefix(path, "kvd/internal/"); ours && floor[dep] >= at {
				t.Errorf("%s imports %s, which is not below it", name, dep)
			}
			if (at == 2 || at == 3) && slices.Contains(pure, path) {
				t.Errorf("%s imports %s; pass the value in", name, path)
			}
			if strings.HasPrefix(path, "go.etcd.io/etcd/server") {
				t.Errorf("%s imports etcd's server module, which is only the oracle of the tests", name)
			}
			for prefix, lowest := range protocol {
				if (path == prefix || strings.HasPrefix(path, prefix+"/")) && at < lowest {
					t.Errorf("%s imports %s; it may be named from floor %d up", name, path, lowest)
				}
			}
		}
	}
	for name := range floor {
		if !documented[name] {
			t.Errorf("%s: no package comment", name)
		}
	}
}
