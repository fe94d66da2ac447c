package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Imported is a configuration of etcd as a file of kvd's.
type Imported struct {
	Text   string // TOML, with every line explained
	Lost   []string
	Secret bool   // nobody else should read it
	Faults Faults // what "kvd config check" has against it; empty: it is valid
}

// importing gathers what a configuration of etcd sets.
type importing struct {
	source string // for people
	loader *loader
	given  map[string]*setting
	lost   []loss
}

// setting is one option that is taken over.
type setting struct {
	option *option
	text   string
	place  string // where it was set
	remark string
}

// loss is something that is not taken over.
type loss struct{ place, why string }

func newImporting(source string) *importing {
	return &importing{source: source, loader: newLoader(nil), given: map[string]*setting{}}
}

func (i *importing) lose(place, format string, args ...any) {
	i.lost = append(i.lost, loss{place, fmt.Sprintf(format, args...)})
}

// take notes the value of an option by its name in etcd. Place is where it
// stands, and named how it is called there.
func (i *importing) take(name, text string, place string) {
	o, remark := i.loader.names[name], ""
	if gate := gateOf(name); gate != "" {
		i.gate(gate, text, place)
		return
	}
	if o == nil {
		if plain, old := strings.CutPrefix(name, "experimental-"); old && i.loader.names[plain] != nil {
			o, remark = i.loader.names[plain], "it is no longer experimental, and so has another name since etcd 3.7"
		}
	}
	switch {
	case o == nil:
		i.lose(place, "%s", i.unknown(name))
		return
	case o.is(own):
		i.lose(place, "etcd has no such option (kvd has, but it cannot have been meant)")
		return
	case o.is(outside):
		i.lose(place, "it is no option of the file")
		return
	case text == "":
		return // that means the default
	}
	if err := o.bind(&Config{}).set(text); err != nil {
		i.lose(place, "etcd would not start with it: invalid value %q: %v", o.shown(text), err)
		return
	}
	if before := i.given[o.name]; before != nil {
		i.lose(before.place, "it is set again at %s", place)
	}
	i.given[o.name] = &setting{option: o, text: text, place: place, remark: remark}
}

// gateOf is the gate of feature-gates that an experimental option became; "":
// it became none.
func gateOf(name string) string {
	return map[string]string{
		"experimental-initial-corrupt-check":             "InitialCorruptCheck",
		"experimental-compact-hash-check-enabled":        "CompactHashCheck",
		"experimental-enable-lease-checkpoint":           "LeaseCheckpoint",
		"experimental-enable-lease-checkpoint-persist":   "LeaseCheckpointPersist",
		"experimental-stop-grpc-service-on-defrag":       "StopGRPCServiceOnDefrag",
		"experimental-txn-mode-write-with-shared-buffer": "TxnModeWriteWithSharedBuffer",
		"experimental-set-member-localaddr":              "SetMemberLocalAddr",
	}[name]
}

// gate adds a gate to feature-gates.
func (i *importing) gate(gate, text, place string) {
	on, err := strconv.ParseBool(text)
	if err != nil {
		i.lose(place, "etcd would not start with it: invalid value %q", text)
		return
	}
	o := i.loader.names["feature-gates"]
	all := fmt.Sprintf("%s=%t", gate, on)
	if s := i.given[o.name]; s != nil {
		all, place = s.text+","+all, s.place+" and "+place
	}
	if err := o.bind(&Config{}).set(all); err != nil {
		i.lose(place, "the gate %s cannot be set: %v", gate, err)
		return
	}
	i.given[o.name] = &setting{option: o, text: all, place: place, remark: "experimental options became gates"}
}

// unknown says why an option is not taken over.
func (i *importing) unknown(name string) string {
	gone := []string{
		"enable-v2", "enable-v2v3", "proxy", "proxy-failure-wait", "proxy-refresh-interval", "proxy-dial-timeout",
		"proxy-write-timeout", "proxy-read-timeout", "debug", "log-package-levels", "strict-reconfig", "discovery",
		"discovery-proxy", "max-concurrent-stream",
	}
	switch {
	case strings.HasPrefix(name, "experimental-"):
		return "etcd 3.7 has no such option; experimental ones became plain ones, gates of feature-gates, or were removed"
	case slices.Contains(gone, name):
		return "etcd 3.7 has no such option any more, and would refuse or ignore it"
	}
	hint := suggest(name, i.loader.known)
	if hint != "" {
		hint = " (" + hint + ")"
	}
	return "neither etcd 3.7 nor kvd has such an option" + hint
}

// complete writes down what etcd does where nothing is said, and kvd does not.
func (i *importing) complete() {
	if i.given["data-dir"] == nil {
		name := "default"
		if n := i.given["name"]; n != nil {
			name = n.text
		}
		i.given["data-dir"] = &setting{
			option: i.loader.names["data-dir"], text: name + ".etcd", place: "not set",
			remark: "etcd's default, in the directory that it was started in; make it an absolute path, or remove the line for the unit's own directory",
		}
	}
	if d := i.given["data-dir"]; d.remark == "" && !strings.HasPrefix(d.text, "/") {
		d.remark = "it is relative to the directory that etcd was started in; make it an absolute path"
	}
}

// finish writes the file and checks it.
func (i *importing) finish() *Imported {
	i.complete()
	made := &Imported{}
	var body strings.Builder
	var at section
	for _, o := range inSections() {
		s := i.given[o.name]
		if s == nil {
			continue
		}
		if o.section != at {
			at = o.section
			fmt.Fprintf(&body, "\n# --- %s ---\n", at)
		}
		made.Secret = made.Secret || o.is(secret)
		s.write(&body)
	}
	warnings := made.check(body.String())
	var head strings.Builder
	fmt.Fprintf(&head, "# Configuration of kvd, made of %s by \"kvd import-config\".\n", i.source)
	head.WriteString("# What is not here has its default, which is etcd's; docs/configuration.md has all options.\n")
	comment(&head, "\nNot taken over:", len(i.lost))
	for _, l := range i.lost {
		made.Lost = append(made.Lost, l.place+": "+l.why)
	}
	bullets(&head, made.Lost)
	comment(&head, "\nWhat \"kvd config check\" says of it:", len(warnings))
	bullets(&head, warnings)
	made.Text = head.String() + body.String()
	return made
}

func comment(b *strings.Builder, text string, n int) {
	if n > 0 {
		b.WriteString(strings.Replace(text, "\n", "#\n# ", 1) + "\n")
	}
}

func bullets(b *strings.Builder, texts []string) {
	for _, text := range texts {
		first := true
		for line := range wrap(oneLine(text), 74) {
			lead := "#   "
			if first {
				lead = "# - "
			}
			first = false
			b.WriteString(lead + line + "\n")
		}
	}
}

// oneLine keeps a text of somebody else's from ending a comment.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
}

// check loads the file as the daemon would.
func (m *Imported) check(text string) (warnings []string) {
	const name = "the new file"
	c, err := Load([]string{"--config-file=" + name}, nil, func(string) ([]byte, error) { return []byte(text), nil })
	if c == nil {
		if !errors.As(err, &m.Faults) {
			m.Faults = Faults{{Source: name, Problem: err.Error()}}
		}
		for _, f := range m.Faults {
			f.Source = name
			warnings = append(warnings, f.Error())
		}
		return warnings
	}
	return c.Warnings
}

// write writes the option with what it means and where it was set.
func (s *setting) write(b *strings.Builder) {
	b.WriteString("\n")
	for line := range wrap(s.option.help, 76) {
		fmt.Fprintf(b, "# %s\n", line)
	}
	words := "Set by " + s.place
	if s.place == "not set" {
		words = "Not set"
	}
	if s.same() {
		words += "; it is the default"
	}
	if s.remark != "" {
		words += "; NB: " + s.remark
	}
	for line := range wrap(oneLine(words)+".", 76) {
		fmt.Fprintf(b, "# %s\n", line)
	}
	fmt.Fprintf(b, "%s = %s\n", s.option.name, s.toml())
}

// same says whether the value is the default.
func (s *setting) same() bool {
	a, b := s.option.bind(new(Config)), s.option.bind(new(Config))
	if s.option.standard == "" || a.set(s.text) != nil || b.set(s.option.standard) != nil {
		return false
	}
	return a.text() == b.text()
}

// toml is the value as TOML.
func (s *setting) toml() string {
	v := s.option.bind(new(Config))
	if err := v.set(s.text); err != nil {
		return tomlText(s.text) // it was set before
	}
	switch v.(type) {
	case boolean, number[int], number[uint], number[uint32], number[uint64], millis, seconds, size:
		return v.text()
	case set, list, urls, ciphers:
		var all []string
		for item := range strings.SplitSeq(s.text, ",") {
			all = append(all, tomlText(strings.TrimSpace(item)))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	return tomlText(s.text)
}

// tomlText is a basic string of TOML.
func tomlText(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// nanoseconds is a duration as etcd's file has it, as others are written.
func (i *importing) nanoseconds(name, text string) string {
	o := cmp.Or(i.loader.names[name], i.loader.names[strings.TrimPrefix(name, "experimental-")])
	if o == nil {
		return text
	}
	if _, is := o.bind(new(Config)).(duration); !is {
		return text
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return text
	}
	return time.Duration(n).String()
}
