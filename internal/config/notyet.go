package config

import "fmt"

// missing is something an operator can ask for that this version of kvd
// cannot do. A row goes when its part is there.
type missing struct {
	option string
	asked  func(c *Config) bool
	reason string
}

// missingParts is what cannot be done yet.
func missingParts() []missing {
	return []missing{
		{
			"enable-distributed-tracing", func(c *Config) bool { return c.Tracing.Enabled },
			"this version sends no spans",
		},
		{
			"listen-client-urls", func(c *Config) bool { return plainAndSecure(c) },
			"this version does not serve http and https on one address",
		},
	}
}

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

// plainAndSecure says whether one address is to be served in both ways.
func plainAndSecure(c *Config) bool {
	all := append(c.Listen.Client[:len(c.Listen.Client):len(c.Listen.Client)], c.Listen.ClientHTTP...)
	for i, u := range all {
		for _, o := range all[:i] {
			if u.Scheme != o.Scheme && sameAddress(u, o) {
				return true
			}
		}
	}
	return false
}
