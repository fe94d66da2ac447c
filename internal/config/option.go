package config

import (
	"strings"
	"time"
)

// section groups options where people read them.
type section string

const (
	sectionMember     section = "Member"
	sectionCluster    section = "Clustering"
	sectionProxy      section = "Proxy"
	sectionSecurity   section = "Security"
	sectionAuth       section = "Auth"
	sectionMonitoring section = "Profiling and Monitoring"
	sectionLog        section = "Logging"
	sectionTracing    section = "Distributed tracing"
	sectionFeatures   section = "Features"
	sectionOwn        section = "kvd's own"
	sectionUnsafe     section = "Unsafe"
)

// sections is the order in which they are shown.
func sections() []section {
	return []section{
		sectionMember, sectionCluster, sectionProxy, sectionSecurity, sectionAuth, sectionMonitoring,
		sectionLog, sectionTracing, sectionFeatures, sectionOwn, sectionUnsafe,
	}
}

// trait is what is special about an option.
type trait uint

const (
	own        trait = 1 << iota // kvd's, not etcd's
	reloadable                   // SIGHUP takes a new value over
	secret                       // not to be shown
	path                         // a file; "credential:NAME" is resolved
	outside                      // not to be set in the file
)

// option is one row of the table.
type option struct {
	name     string
	section  section
	standard string // the default, as written on a command line
	values   string // what may be written, for people; "" where the kind says it
	help     string
	traits   trait
	bind     func(*Config) value // its place in a Config
}

func (o *option) is(t trait) bool { return o.traits&t != 0 }

// variable is the name of the option in the environment.
func (o *option) variable() string { return variablePrefix + variableSuffix(o.name) }

const variablePrefix = "KVD_"

func variableSuffix(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// want says what may be written for the option.
func (o *option) want() string {
	if o.values != "" {
		return o.values
	}
	return o.bind(new(Config)).want()
}

// table is every option, in the order in which people read them.
func table() []*option {
	var all []*option
	for _, part := range [][]*option{
		memberOptions(), clusterOptions(), discoveryOptions(), proxyOptions(), securityOptions(), serviceOptions(),
		observeOptions(), featureOptions(), ownOptions(), unsafeOptions(),
	} {
		all = append(all, part...)
	}
	return all
}

// legacyFlags are flags of old that etcd accepts without a word, as booleans.
func legacyFlags() []string {
	return []string{
		"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force",
		"max-result-buffer", "max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout",
		"retry-interval", "snapshot", "v", "vv", "test.coverprofile", "test.outputdir",
	}
}

// legacy takes the values of options that have no place of their own.
type legacy struct {
	v2Deprecation string
	configFile    string
	version       bool
	batchInterval time.Duration // becomes Store.FlushInterval
}
