package config

import (
	"bytes"
	"strconv"
	"strings"
)

// scanner steps over the parts of a valid TOML file. On an invalid one it
// makes no sense, but ends.
type scanner struct {
	data  []byte
	i     int
	line  int
	start int // of the line
}

// next steps over one byte, counting lines.
func (s *scanner) next() {
	if s.data[s.i] == '\n' {
		s.line++
		s.start = s.i + 1
	}
	s.i++
}

// skip steps over any of the bytes in set.
func (s *scanner) skip(set string) {
	for s.i < len(s.data) && strings.IndexByte(set, s.data[s.i]) >= 0 {
		s.next()
	}
}

// skipBlank steps over white space and comments.
func (s *scanner) skipBlank() {
	for {
		s.skip(" \t\r\n")
		if s.i >= len(s.data) || s.data[s.i] != '#' {
			return
		}
		s.rest()
	}
}

// rest steps to the end of the line.
func (s *scanner) rest() {
	for s.i < len(s.data) && s.data[s.i] != '\n' {
		s.i++
	}
}

// key reads one part of a key: bare or quoted.
func (s *scanner) key() string {
	begin := s.i
	if s.i < len(s.data) && (s.data[s.i] == '"' || s.data[s.i] == '\'') {
		s.quoted()
		raw := string(s.data[begin:s.i])
		if raw[0] == '"' {
			if name, err := strconv.Unquote(raw); err == nil {
				return name
			}
		}
		return strings.Trim(raw, `"'`)
	}
	for s.i < len(s.data) && strings.IndexByte(" \t\r\n.=]#", s.data[s.i]) < 0 {
		s.i++
	}
	if s.i == begin && s.i < len(s.data) {
		s.next() // never stand still
	}
	return string(s.data[begin:s.i])
}

// quoted steps over a string of any of the four kinds.
func (s *scanner) quoted() {
	quote := s.data[s.i]
	end := []byte{quote}
	if triple := bytes.Repeat(end, 3); bytes.HasPrefix(s.data[s.i:], triple) {
		end = triple
	}
	s.i += len(end)
	for s.i < len(s.data) {
		switch {
		case bytes.HasPrefix(s.data[s.i:], end):
			s.i += len(end)
			for len(end) == 3 && s.i < len(s.data) && s.data[s.i] == quote {
				s.i++ // one or two quotes may stand before the last three
			}
			return
		case s.data[s.i] == '\n' && len(end) == 1:
			return
		case s.data[s.i] == '\\' && quote == '"' && s.i+1 < len(s.data):
			s.i++
		}
		s.next()
	}
}

// value steps over the rest of an expression: to the end of the line, or of
// the lines that its brackets and strings go over.
func (s *scanner) value() {
	depth := 0
	for s.i < len(s.data) {
		switch c := s.data[s.i]; c {
		case '"', '\'':
			s.quoted()
			continue
		case '#':
			s.rest()
			continue
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '\n':
			if depth <= 0 {
				return
			}
		}
		s.next()
	}
}
