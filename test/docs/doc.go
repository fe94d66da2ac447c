// Package docs holds the documents to their word: the commands in them are run,
// and the links in them lead somewhere.
//
// It holds tests only.
package docs
