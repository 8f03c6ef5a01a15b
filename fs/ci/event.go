package ci

// NamespaceEvent returns a line of a namespace's event file as it stands in the
// event file of a root of namespaces: its id is a path from that root.
func NamespaceEvent(namespace, line string) string { return namespace + "/ci/" + line }
