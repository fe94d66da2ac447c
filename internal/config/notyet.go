package config

import "fmt"

// missing is something an operator can ask for that this version of kvd
// cannot do. A row goes when its part is there.
type missing struct {
	option string
	asked  func(c *Config) bool
	reason string
}

// missingParts is what cannot be done yet: nothing, at present.
func missingParts() []missing { return nil }

// NotYet returns what was asked for and this version of kvd cannot do, each
// with the reason. A daemon must refuse to start on it: an option that is
// silently ignored is worse than one that is missing.
func (c *Config) NotYet() []string {
	var texts []string
	for _, m := range missingParts() {
		if m.asked(c) {
			texts = append(texts, fmt.Sprintf("%s (%s): %s", m.option, c.Origin(m.option), m.reason))
		}
	}
	return texts
}
