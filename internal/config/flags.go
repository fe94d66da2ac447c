package config

// Flag is a flag of the daemon, for programs that complete command lines.
type Flag struct {
	Name    string // without dashes
	Help    string
	Boolean bool     // it may stand without a value
	Words   []string // the only values there are; none: there are others
}

// Flags are all flags of the daemon, in the order in which people read them.
func Flags() []Flag {
	var all []Flag
	for _, o := range inSections() {
		f := Flag{Name: o.name, Help: o.help}
		switch v := o.bind(new(Config)).(type) {
		case boolean:
			f.Boolean = true
		case choice:
			f.Words = v.words
		}
		all = append(all, f)
	}
	return all
}
