package config

// Changes compares a running configuration with one that was read again: the
// options whose new value can be taken over at once, and those that wait for
// a restart.
func Changes(running, read *Config) (reload, restart []string) {
	for _, o := range table() {
		if o.bind(running).text() == o.bind(read).text() {
			continue
		}
		if o.is(reloadable) {
			reload = append(reload, o.name)
		} else {
			restart = append(restart, o.name)
		}
	}
	return reload, restart
}
