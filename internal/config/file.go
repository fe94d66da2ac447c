package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// parseFile takes the options of a TOML file over.
func (l *loader) parseFile(name string, data []byte) {
	if why, line := looksLikeYAML(name, data); why != "" {
		l.blind = true
		l.faults = append(l.faults, atFile(name, position{line, 1}).fault("", why,
			`write its options as TOML, one a line: listen-client-urls = "http://localhost:2379"`))
		return
	}
	values := map[string]any{}
	if _, err := toml.Decode(string(data), &values); err != nil {
		l.blind = true
		l.faults = append(l.faults, syntaxFault(name, err))
		return
	}
	taken := map[string]string{} // by option, the key that set it
	for _, k := range scanKeys(data) {
		v, ok := values[k.name]
		if !ok {
			continue // a key inside of a table
		}
		from := atFile(name, k.position)
		if k.table {
			l.faults = append(l.faults, from.fault(k.name, "a table where an option should be",
				"options are flat: name = value, without [table]"))
			continue
		}
		option := strings.ReplaceAll(k.name, "_", "-")
		if earlier, twice := taken[option]; twice {
			l.faults = append(l.faults, from.fault(k.name, fmt.Sprintf("set a second time, after %s", earlier), ""))
			continue
		}
		taken[option] = k.name
		l.fromFile(option, k.name, v, from)
		delete(values, k.name)
	}
	for _, key := range taken {
		delete(values, key)
	}
}

// fromFile sets one option of the file.
func (l *loader) fromFile(name, key string, v any, from at) {
	o := l.names[name]
	if o == nil {
		l.faults = append(l.faults, from.fault(key, "unknown option", suggest(name, l.known)))
		return
	}
	if o.is(outside) {
		l.faults = append(l.faults, from.fault(key, "not an option of the file",
			"use the flag --"+name))
		return
	}
	if n, ok := tomlNumber(v); ok && name == "auto-compaction-retention" { // hours or revisions
		v = n
	}
	text, ok := o.bind(l.config).toml(v)
	if !ok {
		l.bad[name] = true
		l.places[name] = from
		l.faults = append(l.faults, from.fault(key, "wrong type: "+tomlKind(v), "want "+o.want()))
		return
	}
	l.assign(o, text, from, func(err error) string {
		return fmt.Sprintf("invalid value %q: %v", o.shown(text), err)
	})
}

// tomlKind names a TOML type.
func tomlKind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case int64:
		return "an integer"
	case float64:
		return "a decimal number"
	case []any:
		return "a list with something other than strings"
	case map[string]any, []map[string]any:
		return "a table"
	}
	return "a date or time"
}

// syntaxFault is a fault of a file that is not TOML.
func syntaxFault(name string, err error) Fault {
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return atFile(name, position{}).fault("", err.Error(), "")
	}
	message := parse.Message
	if message == "" {
		message = strings.TrimPrefix(parse.Error(), "toml: ")
	}
	hint := ""
	if strings.Contains(message, "expected value but found") {
		hint = "strings need quotes"
	}
	return atFile(name, position{parse.Position.Line, max(1, parse.Position.Col)}).fault(parse.LastKey, message, hint)
}

// yamlLine is a line that YAML has and TOML has not.
var yamlLine = regexp.MustCompile(`^\s*["']?[A-Za-z][A-Za-z0-9_-]*["']?\s*:(\s|$)`)

// looksLikeYAML says why a file is taken for etcd's own kind of file, and at
// which line; "" if it is not.
func looksLikeYAML(name string, data []byte) (why string, line int) {
	const theirs = "this is etcd's own kind of file (YAML or JSON), which kvd does not read"
	for i, text := range strings.Split(string(data), "\n") {
		text = strings.TrimSpace(text)
		switch {
		case text == "" || text[0] == '#':
			continue
		case text == "---" || text == "{" || yamlLine.MatchString(text):
			return theirs, i + 1
		}
		break // the first line that says something decides
	}
	if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) && !strings.Contains(string(data), "=") {
		return theirs, 0
	}
	return "", 0
}

// position is a place in a file, both from 1.
type position struct{ line, column int }

// keyAt is where a key stands.
type keyAt struct {
	name string
	position
	table bool // the header of a table, or the first part of a dotted key
}

// scanKeys finds the places of the keys at the top of a TOML file that was
// already found to be valid; the decoder does not tell them.
func scanKeys(data []byte) []keyAt {
	s := scanner{data: data, line: 1, start: 0}
	var keys []keyAt
	inTable := false
	for s.skipBlank(); s.i < len(s.data); s.skipBlank() {
		at := position{s.line, s.i - s.start + 1}
		if s.data[s.i] == '[' {
			inTable = true
			s.skip("[ \t")
			keys = append(keys, keyAt{s.key(), at, true})
			s.value()
			continue
		}
		name := s.key()
		s.skip(" \t")
		dotted := s.i < len(s.data) && s.data[s.i] == '.'
		if !inTable {
			keys = append(keys, keyAt{name, at, dotted})
		}
		for s.i < len(s.data) && s.data[s.i] != '=' && s.data[s.i] != '\n' {
			if c := s.data[s.i]; c == '"' || c == '\'' {
				s.quoted()
				continue
			}
			s.i++
		}
		s.value()
	}
	return keys
}
