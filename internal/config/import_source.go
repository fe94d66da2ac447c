package config

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrNotEtcds says that a file is no configuration of etcd's.
var ErrNotEtcds = errors.New("not a configuration file of etcd")

// ImportYAML makes kvd's file of etcd's own kind of file, which is YAML or JSON.
func ImportYAML(name string, data []byte) (*Imported, error) {
	root, err := parseYAML(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	i := newImporting(oneLine(name))
	for key, value := range pairsOf(root) {
		i.top(name, key, value)
	}
	return i.finish(), nil
}

// parseYAML reads one document, which must be a mapping.
func parseYAML(data []byte) (_ *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil { // the parser has had such faults
			err = fmt.Errorf("%w: the parser of YAML gave up: %v", ErrNotEtcds, p)
		}
	}()
	var document yaml.Node
	switch err := yaml.Unmarshal(data, &document); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: it is empty", ErrNotEtcds)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotEtcds, err)
	case len(document.Content) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrNotEtcds)
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%w: it holds no options (name: value)", ErrNotEtcds)
	}
	return root, nil
}

// pairsOf visits the keys of a mapping and their values, in order.
func pairsOf(m *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(m.Content); i += 2 {
			value := m.Content[i+1]
			if value.Kind == yaml.AliasNode {
				value = value.Alias
			}
			if !yield(m.Content[i], value) {
				return
			}
		}
	}
}

// groups are the options that etcd's file has in a mapping of their own: by its
// name and theirs, the name of the flag.
func groups() map[string]map[string]string {
	client := map[string]string{"allowed-hostname": "client-cert-allowed-hostname"}
	peer := map[string]string{
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	}
	for _, name := range []string{"cert-file", "key-file", "client-cert-file", "client-key-file", "client-cert-auth", "trusted-ca-file", "auto-tls"} {
		client[name], peer[name] = name, "peer-"+name
	}
	return map[string]map[string]string{
		"client-transport-security": client,
		"peer-transport-security":   peer,
		"socket-options":            {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
		"discovery-config":          {"token": "discovery-token"},
		"discovery-config.client": {
			"endpoints": "discovery-endpoints", "request-timeout": "discovery-request-timeout", "dial-timeout": "discovery-dial-timeout",
			"keepalive-time": "discovery-keepalive-time", "keepalive-timeout": "discovery-keepalive-timeout",
		},
		"discovery-config.client.secure": {
			"cert": "discovery-cert", "key": "discovery-key", "cacert": "discovery-cacert",
			"insecure-transport": "discovery-insecure-transport", "insecure-skip-tls-verify": "discovery-insecure-skip-tls-verify",
		},
		"discovery-config.client.auth": {"username": "discovery-user", "password": "discovery-password"},
	}
}

// top takes one key at the top of the file.
func (i *importing) top(file string, key, value *yaml.Node) {
	name := strings.ToLower(key.Value) // etcd does not tell the cases apart
	if groups()[name] != nil {
		i.group(file, name, value)
		return
	}
	i.yaml(name, name, file, key, value)
}

// group takes the keys of a mapping.
func (i *importing) group(file, path string, m *yaml.Node) {
	place := fmt.Sprintf("%s:%d (%s)", file, m.Line, path)
	if m.Kind != yaml.MappingNode {
		if m.Tag != "!!null" {
			i.lose(place, "etcd would not start with it: it should hold options of its own")
		}
		return
	}
	for key, value := range pairsOf(m) {
		name := strings.ToLower(key.Value)
		inner := path + "." + name
		if groups()[inner] != nil {
			i.group(file, inner, value)
			continue
		}
		flag, ok := groups()[path][name]
		if !ok {
			i.lose(fmt.Sprintf("%s:%d (%s)", file, key.Line, inner), "kvd has no such option")
			continue
		}
		i.yaml(flag, inner, file, key, value)
	}
}

// yaml takes one value for the option of that name.
func (i *importing) yaml(name, shown, file string, key, value *yaml.Node) {
	place := fmt.Sprintf("%s:%d (%s)", file, key.Line, shown)
	switch value.Kind {
	case yaml.ScalarNode:
		text := value.Value
		if value.Tag == "!!null" {
			text = ""
		}
		if value.Tag == "!!int" {
			text = i.nanoseconds(name, text)
		}
		i.take(name, strings.TrimSpace(text), place)
	case yaml.SequenceNode:
		var all []string
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				i.lose(place, "etcd would not start with it: a list with something other than strings")
				return
			}
			all = append(all, item.Value)
		}
		i.take(name, strings.Join(all, ","), place)
	default:
		if i.loader.names[name] == nil {
			i.lose(place, "%s", i.unknown(name))
			return
		}
		i.lose(place, "etcd would not start with it: a mapping where a value should be")
	}
}

// ImportEnvironment makes kvd's file of etcd's variables, NAME=value each.
func ImportEnvironment(source string, environ []string) *Imported {
	i := newImporting(oneLine(source))
	byVariable := map[string]string{}
	for _, o := range i.loader.table {
		byVariable[variableSuffix(o.name)] = o.name
	}
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		variable, text, _ := strings.Cut(pair, "=")
		suffix, etcds := strings.CutPrefix(variable, "ETCD_")
		switch {
		case !etcds:
			continue
		case suffix == "CONFIG_FILE":
			i.lose(variable, "etcd reads %s instead, and none of the other variables; import that", oneLine(text))
			continue
		}
		name := byVariable[suffix]
		if name == "" {
			name = strings.ToLower(strings.ReplaceAll(suffix, "_", "-"))
		}
		i.take(name, text, variable)
	}
	return i.finish()
}

// Assignments reads the lines NAME=value of a file as systemd and shells have
// them: comments, quotes, "export".
func Assignments(data []byte) (environ []string) {
	for line := range strings.Lines(string(data)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		value = strings.TrimSpace(value)
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		environ = append(environ, strings.TrimSpace(name)+"="+value)
	}
	return environ
}
