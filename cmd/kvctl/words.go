package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// splitWords cuts a line of txn or of watch's interactive mode into words, by
// etcdctl's rules: "a word" with Go's escapes, 'a word' as it stands, or
// anything up to the next space. A quote without its partner is dropped.
func splitWords(line string) (words []string, err error) {
	for line != "" {
		first, size := utf8.DecodeRuneInString(line)
		switch {
		case first == '"' || first == '\'':
			word, ok := quoted(line)
			if !ok {
				line = line[1:]
				continue
			}
			line = line[len(word):]
			plain := word[1 : len(word)-1]
			if first == '"' {
				if _, err := fmt.Sscanf(word, "%q", &plain); err != nil {
					return nil, err
				}
			}
			words = append(words, plain)
		case isSpace(first):
			line = line[size:]
		default:
			end := strings.IndexFunc(line, isSpace)
			if end < 0 {
				end = len(line)
			}
			words = append(words, line[:end])
			line = line[end:]
		}
	}
	return words, nil
}

// quoted is the quoted word at the beginning of line, quotes included.
func quoted(line string) (word string, ok bool) {
	quote := line[0]
	for i := 1; i < len(line); i++ {
		switch {
		case line[i] == quote:
			return line[:i+1], true
		case line[i] == '\\' && quote == '"':
			i++ // whatever follows is not the end
		}
	}
	return "", false
}

// isSpace knows the ASCII spaces only, but for the vertical tab.
func isSpace(r rune) bool {
	return r != '\v' && r < utf8.RuneSelf && unicode.IsSpace(r)
}
