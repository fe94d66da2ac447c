package config

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// The two flags that ask for a text instead of a service.
var (
	ErrHelp    = errors.New("help requested")
	ErrVersion = errors.New("version requested")
)

// Load merges defaults, the file, the environment and the command line, each
// beating those before it, and checks the result. args is the command line
// without the program's name and environ as os.Environ returns it; readFile
// is os.ReadFile or a test's. The error is Faults, ErrHelp or ErrVersion.
func Load(args, environ []string, readFile func(string) ([]byte, error)) (*Config, error) {
	return load(args, environ, readFile, defaultHost, false)
}

// load is Load, or LoadAside.
func load(
	args, environ []string, readFile func(string) ([]byte, error), host func() (string, error), aside bool,
) (*Config, error) {
	l := newLoader(environ)
	l.aside = aside
	line := l.parseArgs(args)
	if line.help {
		return nil, ErrHelp
	}
	l.readFile(readFile, line)
	l.readEnvironment()
	for _, a := range line.assignments {
		l.assign(a.option, a.text, a.at, a.describe)
	}
	if l.config.sink.version && len(l.faults) == 0 {
		return nil, ErrVersion
	}
	l.derive(host)
	if !l.blind { // else the rules would see values that the file replaces
		l.rule()
	}
	if len(l.faults) > 0 {
		slices.SortStableFunc(l.faults, inOrder)
		return nil, l.faults
	}
	l.config.observe()
	return l.config, nil
}

// inOrder puts the faults of the file first, from top to bottom.
func inOrder(a, b Fault) int {
	switch {
	case a.File != "" && b.File != "":
		return a.Line - b.Line
	case a.File != "":
		return -1
	case b.File != "":
		return 1
	}
	return 0
}

// loader gathers a Config and the faults on the way.
type loader struct {
	config  *Config
	table   []*option
	names   map[string]*option
	known   []string // all names, for suggestions
	environ map[string]string
	places  map[string]at   // of the options set so far
	bad     map[string]bool // options whose value is unknown because of a fault
	blind   bool            // the file could not be read: much is unknown
	aside   bool            // this is not the service, and is not given what it is
	faults  Faults
}

func newLoader(environ []string) *loader {
	l := &loader{
		config: &Config{origins: map[string]Origin{}, given: map[string]bool{}}, table: table(),
		names: map[string]*option{}, environ: map[string]string{},
		places: map[string]at{}, bad: map[string]bool{},
	}
	for _, o := range l.table {
		l.names[o.name] = o
		l.known = append(l.known, o.name)
		if err := l.setStandard(o); err != nil {
			panic(fmt.Sprintf("config: default of %s: %v", o.name, err))
		}
	}
	for _, pair := range environ {
		if name, text, ok := strings.Cut(pair, "="); ok {
			l.environ[name] = text
		}
	}
	return l
}

// setStandard gives an option its default. Where there is none its zero
// stays, which not every kind could read.
func (l *loader) setStandard(o *option) error {
	if o.standard == "" {
		return nil
	}
	return o.bind(l.config).set(o.standard)
}

func (l *loader) getenv(name string) string { return l.environ[name] }

// assign sets an option from a source. A source of another layer replaces
// what is there, also for options that gather.
func (l *loader) assign(o *option, text string, from at, describe func(error) string) {
	v := o.bind(l.config)
	if gathering, ok := v.(interface{ reset() }); ok && l.places[o.name].Layer != from.Layer {
		gathering.reset()
	}
	l.places[o.name] = from
	l.config.origins[o.name] = from.Origin
	l.config.given[o.name] = true
	if err := v.set(text); err != nil {
		l.bad[o.name] = true
		l.faults = append(l.faults, from.fault(o.name, describe(err), l.wanted(o, err)))
		return
	}
	delete(l.bad, o.name) // what a stronger source says is no longer in doubt
}

// wanted adds what may be written where the error does not say it.
func (l *loader) wanted(o *option, err error) string {
	if errors.Is(err, errParse) {
		return "want " + o.want()
	}
	return ""
}

// command is a parsed command line.
type command struct {
	help        bool
	assignments []assignment
}

type assignment struct {
	option   *option
	text     string
	at       at
	describe func(error) string
}

// last returns the text that the last use of an option gave it.
func (c command) last(name string) (string, bool) {
	for _, a := range slices.Backward(c.assignments) {
		if a.option.name == name {
			return a.text, true
		}
	}
	return "", false
}

// parseArgs reads flags as etcd does: --f v, --f=v and the same with one
// dash; booleans only as --f or --f=v. It goes on after a fault, to find
// them all.
func (l *loader) parseArgs(args []string) command {
	var line command
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			for _, rest := range args {
				l.stray(rest)
			}
			return line
		}
		name, text, given, ok := splitFlag(arg)
		if !ok {
			l.stray(arg)
			continue
		}
		if name == "help" || name == "h" {
			line.help = true
			return line
		}
		o := l.names[name]
		switch {
		case slices.Contains(legacyFlags(), name):
			l.config.warn("--%s is an old flag of no effect", name)
			continue
		case o == nil:
			l.faults = append(l.faults, atFlag(name).fault("", "flag provided but not defined: -"+name,
				suggest(name, l.known)))
			if !given && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
				args = args[1:] // its value, probably
			}
			continue
		}
		_, isBool := o.bind(l.config).(boolean)
		if !given && isBool {
			text, given = "true", true
		}
		if !given {
			if len(args) == 0 {
				l.faults = append(l.faults, atFlag(name).fault(name, "flag needs an argument: -"+name, "want "+o.want()))
				return line
			}
			text, args = args[0], args[1:]
		}
		line.assignments = append(line.assignments, assignment{o, text, atFlag(name), func(err error) string {
			if isBool {
				return fmt.Sprintf("invalid boolean value %q for -%s: %v", text, name, err)
			}
			return fmt.Sprintf("invalid value %q for flag -%s: %v", o.shown(text), name, err)
		}})
	}
	return line
}

// splitFlag takes a flag apart; false for what is none.
func splitFlag(arg string) (name, text string, given, ok bool) {
	name, ok = strings.CutPrefix(arg, "-")
	if !ok || name == "" {
		return "", "", false, false
	}
	name = strings.TrimPrefix(name, "-")
	if name == "" || name[0] == '-' || name[0] == '=' {
		return "", "", false, false
	}
	name, text, given = strings.Cut(name, "=")
	return name, text, given, true
}

// stray reports an argument that belongs to no flag.
func (l *loader) stray(arg string) {
	from := at{Origin: Origin{FromFlag, "command line"}}
	if strings.HasPrefix(arg, "-") && arg != "-" {
		l.faults = append(l.faults, from.fault("", "bad flag syntax: "+arg, ""))
		return
	}
	hint := ""
	if arg == "true" || arg == "false" {
		hint = "a boolean flag takes its value as --flag=" + arg
	}
	l.faults = append(l.faults, from.fault("", fmt.Sprintf("%q is not a valid flag", arg), hint))
}

// shown is a value as it may be shown.
func (o *option) shown(text string) string {
	if o.is(secret) && text != "" {
		return "(hidden)"
	}
	return text
}

// readFile finds the file and reads it: the one that is named, or the usual
// one if it is there.
func (l *loader) readFile(read func(string) ([]byte, error), line command) {
	from := atFlag("config-file")
	name, named := line.last("config-file")
	if name == "" {
		from = atVariable(l.names["config-file"].variable())
		name = l.getenv("KVD_CONFIG_FILE")
		named = name != ""
	}
	if name == "" {
		name, named = DefaultFile, false
	}
	data, err := read(name)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return
	}
	if err != nil {
		l.blind = true
		if !named {
			from = atFile(name, position{})
		}
		l.faults = append(l.faults, from.fault("config-file", fmt.Sprintf("cannot read %s: %v", name, err), ""))
		return
	}
	l.config.File = name
	l.parseFile(name, data)
}
