package config

func securityOptions() []*option {
	return append(append(clientSecurity(), peerSecurity()...), commonSecurity()...)
}

func clientSecurity() []*option {
	return []*option{
		{
			name: "cert-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Certificate shown to clients.",
			bind: func(c *Config) value { return text{&c.ClientTLS.CertFile} },
		},
		{
			name: "key-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Key of that certificate.",
			bind: func(c *Config) value { return text{&c.ClientTLS.KeyFile} },
		},
		{
			name: "client-cert-auth", section: sectionSecurity, standard: "false",
			help: "Require a certificate of clients.",
			bind: func(c *Config) value { return boolean{&c.ClientTLS.ClientCertAuth} },
		},
		{
			name: "client-cert-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Certificate shown where this member is itself a client. Not set: cert-file.",
			bind: func(c *Config) value { return text{&c.ClientTLS.ClientCertFile} },
		},
		{
			name: "client-key-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Key of that certificate.",
			bind: func(c *Config) value { return text{&c.ClientTLS.ClientKeyFile} },
		},
		{
			name: "client-crl-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "List of revoked client certificates.",
			bind: func(c *Config) value { return text{&c.ClientTLS.CRLFile} },
		},
		{
			name: "client-cert-allowed-hostname", section: sectionSecurity,
			help: "Host names of which a client certificate must carry one.",
			bind: func(c *Config) value { return list{&c.ClientTLS.AllowedHostnames} },
		},
		{
			name: "trusted-ca-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Certificates of the authorities that clients are verified by. Setting it requires a certificate of clients.",
			bind: func(c *Config) value { return text{&c.ClientTLS.TrustedCAFile} },
		},
		{
			name: "auto-tls", section: sectionSecurity, standard: "false",
			help: "Serve clients with a certificate made by this member.",
			bind: func(c *Config) value { return boolean{&c.ClientTLS.Auto} },
		},
	}
}

func peerSecurity() []*option {
	return []*option{
		{
			name: "peer-cert-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Certificate shown to other members.",
			bind: func(c *Config) value { return text{&c.PeerTLS.CertFile} },
		},
		{
			name: "peer-key-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Key of that certificate.",
			bind: func(c *Config) value { return text{&c.PeerTLS.KeyFile} },
		},
		{
			name: "peer-client-cert-auth", section: sectionSecurity, standard: "false",
			help: "Require a certificate of other members.",
			bind: func(c *Config) value { return boolean{&c.PeerTLS.ClientCertAuth} },
		},
		{
			name: "peer-client-cert-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Certificate shown when calling other members. Not set: peer-cert-file.",
			bind: func(c *Config) value { return text{&c.PeerTLS.ClientCertFile} },
		},
		{
			name: "peer-client-key-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Key of that certificate.",
			bind: func(c *Config) value { return text{&c.PeerTLS.ClientKeyFile} },
		},
		{
			name: "peer-trusted-ca-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "Certificates of the authorities that other members are verified by.",
			bind: func(c *Config) value { return text{&c.PeerTLS.TrustedCAFile} },
		},
		{
			name: "peer-cert-allowed-cn", section: sectionSecurity,
			help: "Common names of which a peer certificate must carry one.",
			bind: func(c *Config) value { return list{&c.PeerTLS.AllowedCNs} },
		},
		{
			name: "peer-cert-allowed-hostname", section: sectionSecurity,
			help: "Host names of which a peer certificate must carry one.",
			bind: func(c *Config) value { return list{&c.PeerTLS.AllowedHostnames} },
		},
		{
			name: "peer-skip-client-san-verification", section: sectionSecurity, standard: "false",
			help: "Do not check that a peer certificate names the address it comes from.",
			bind: func(c *Config) value { return boolean{&c.PeerTLS.SkipSANCheck} },
		},
		{
			name: "peer-auto-tls", section: sectionSecurity, standard: "false",
			help: "Serve other members with a certificate made by this member.",
			bind: func(c *Config) value { return boolean{&c.PeerTLS.Auto} },
		},
		{
			name: "peer-crl-file", section: sectionSecurity, values: "path", traits: path | reloadable,
			help: "List of revoked peer certificates.",
			bind: func(c *Config) value { return text{&c.PeerTLS.CRLFile} },
		},
	}
}

func commonSecurity() []*option {
	return []*option{
		{
			name: "self-signed-cert-validity", section: sectionSecurity, standard: "1", values: "number of years",
			help: "How long certificates made by this member are valid.",
			bind: func(c *Config) value { return number[uint]{&c.TLS.SelfSignedValidity, 0} },
		},
		{
			name: "cipher-suites", section: sectionSecurity, values: "list of Go's names of cipher suites",
			help: "Cipher suites of TLS 1.2. Not set: Go's choice.",
			bind: func(c *Config) value { return ciphers{&c.TLS.CipherSuites} },
		},
		{
			name: "tls-min-version", section: sectionSecurity, standard: "TLS1.2",
			help: "Oldest version of TLS that is spoken.",
			bind: func(c *Config) value { return tlsVersion{&c.TLS.MinVersion} },
		},
		{
			name: "tls-max-version", section: sectionSecurity,
			help: "Newest version of TLS that is spoken. Not set: Go's choice.",
			bind: func(c *Config) value { return tlsVersion{&c.TLS.MaxVersion} },
		},
		{
			name: "cors", section: sectionSecurity, standard: "*", values: "* or list of URLs",
			help: "Origins from which browsers may ask.",
			bind: func(c *Config) value { return origins{&c.HTTP.CORS} },
		},
		{
			name: "host-whitelist", section: sectionSecurity, standard: "*",
			help: "Host names that requests over plain HTTP may name (empty or * means all).",
			bind: func(c *Config) value { return set{&c.HTTP.HostWhitelist} },
		},
	}
}
