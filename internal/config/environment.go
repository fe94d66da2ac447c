package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// serviceLink matches what Kubernetes puts into the environment of a pod
// when a service is called kvd. It is nobody's mistake.
var serviceLink = regexp.MustCompile(`^KVD_(SERVICE_(HOST|PORT(_.*)?)|PORT(_\d+_(TCP|UDP)(_.*)?)?)$`)

// readEnvironment takes the KVD_ variables over. An empty one counts as not
// set.
func (l *loader) readEnvironment() {
	byVariable := map[string]*option{}
	known := make([]string, 0, len(l.table))
	for _, o := range l.table {
		byVariable[o.variable()] = o
		known = append(known, o.variable())
	}
	for _, name := range slices.Sorted(maps.Keys(l.environ)) {
		text := l.environ[name]
		if suffix, etcd := strings.CutPrefix(name, "ETCD_"); etcd {
			l.foreign(name, variablePrefix+suffix, byVariable)
			continue
		}
		if !strings.HasPrefix(name, variablePrefix) || text == "" {
			continue
		}
		o := byVariable[name]
		switch {
		case o == nil && serviceLink.MatchString(name):
			l.config.warn("%s is not an option; it looks like a link to a Kubernetes service (enableServiceLinks: false)", name)
		case o == nil:
			l.faults = append(l.faults, atVariable(name).fault("", "unknown option",
				strings.TrimPrefix(meant(name, known), "; ")))
		case o.name == "version":
			l.config.warn("%s has no effect", name)
		default:
			l.assign(o, text, atVariable(name), func(err error) string {
				return fmt.Sprintf("invalid value %q for %s: %v", o.shown(text), name, err)
			})
		}
	}
}

// foreign warns of a variable that etcd would have read.
func (l *loader) foreign(name, ours string, byVariable map[string]*option) {
	if byVariable[ours] == nil {
		l.config.warn("%s is not read", name)
		return
	}
	l.config.warn("%s is not read; kvd's name for it is %s", name, ours)
}

func (c *Config) warn(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}
