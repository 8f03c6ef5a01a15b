// Orchestrator is a 9P mux, authenticated by SSH or by mutual TLS, over the trees of
// the executors that are connected to it.
//
//	orchestrator [-a ADDR]... [-state DIR] [-ca FILE] [-url URL] [-web ADDR] [-acme URL] [-tls ADDR] [-metrics ADDR] [-log LEVEL] [-D]
//	orchestrator token [-state DIR] [-read] [-expires D] [-name N] NAMESPACE
//	orchestrator tokens [-state DIR]
//	orchestrator revoke [-state DIR] TOKEN|ACCOUNT|SERIAL|NAME...
//	orchestrator invite [-state DIR] [-url URL] [-expires D] [-name N] [-account ACCOUNT] [NAMESPACE...]
//	orchestrator check [-state DIR] [-ca FILE]
//	orchestrator help [TOPIC...]
//	orchestrator version
//
// Executors dial it, say which namespaces they hold, and serve their tree on
// the same connection. A client that may read a namespace sees all of its
// executors in one tree, and finds a run by its key. The orchestrator keeps no
// runs: it forgets an executor that leaves.
//
//	-a ADDR     listen on tcp!HOST!PORT or unix!PATH; may be repeated; default tcp!*!2222
//	-state DIR  the directory of the host key, authorized_keys and the rest, made on a first start;
//	            default $STATE_DIRECTORY, else ~/.local/state/9ci-orchestrator, where ~ is
//	            $HOME or, if that is not absolute, the directory in the password file
//	-ca FILE    trust SSH certificates that the keys in FILE have signed; its lines
//	            are as in authorized_keys. A certificate without principals is refused
//	-url URL    the orchestrator is https://HOST[:PORT] to others; the tokens of CI jobs must
//	            be made out to that HOST, and without -url no CI job enters by one
//	-web ADDR   serve the page for people on ADDR, which browsers reach by URL: see below
//	-acme URL   have the page's certificate from the CA whose ACME directory is at URL, and
//	            take its terms: see below
//	-tls ADDR   serve 9P over mutual TLS on ADDR too: see below
//	-metrics ADDR  serve HTTP for operators on a loopback address or a Unix socket: /metrics
//	            in Prometheus's text format, and /healthz, which is 200 if clients can connect
//	            and the state can be read, else 503 and why
//	-log LEVEL  debug, info, warn or error; default info
//	-D          print 9P messages on standard error, one a line
//
// # Who may enter
//
// A key with a line in authorized_keys, in the format of sshd(8), may enter. So
// may a certificate of an authority there (cert-authority) or in -ca's file.
// Options before the key narrow what it may do:
//
//	namespace="github.com/alice/hello"   only that; may be repeated; * matches within
//	                                     an element, a last ... all that follows.
//	                                     Without the option, all namespaces but
//	                                     local/NAME, each one executor's own: these
//	                                     need a pattern that begins with local/
//	read, publish                        only that right; with neither, both
//	expiry-time="YYYYMMDD[HHMM[SS]][Z]"
//	from="203.0.113.0/24,!203.0.113.9"   only from these addresses, ADDRESS/BITS, or addresses
//	                                     with * and ?; a ! takes some out. Names of hosts are
//	                                     not looked up
//	cert-authority, principals="A,B"     certificates of this key, of these principals
//
// A line that cannot be read, or has an option that is not known, is skipped, and
// the log has its number. An edit counts at once: a connection whose key may do
// something else now ends at its next channel, or within a second. The user's name
// means nothing.
//
// A key or a certificate in the file revoked of the state directory may not enter, nor
// may one whose authority is in it. The file is a KRL, as ssh-keygen -k makes it, or
// text with a public key or a SHA256:FINGERPRINT on each line.
//
//	ssh-keygen -k -u -f revoked stolen.pub      -k -f revoked for a first one
//
// A connection also ends within a second of the time at which its certificate, token or
// line does. 9ci, and stock ssh on standard error, are told why.
//
// What a line of the file public of the state directory names, a namespace or a pattern as
// in authorized_keys, everybody may read: all who have logged in, by whatever means, and
// every visitor of the page. A namespace local/NAME never is public. An edit counts at once.
//
// While one of the files of this manual cannot be read or is gone, what it said last
// stands, and the log says so: to take all lines back, empty the file. A list of
// revoked keys that cannot be understood counts as one that cannot be read. An
// orchestrator does not start with a file that it cannot read.
//
// # Check
//
// Check reads the files of the state directory and of -ca, changes nothing, and prints
// what each line or certificate grants, as FILE:LINE: and words, or what is wrong: what
// cannot be read, has expired, repeats a key or identity, has the orchestrator's own
// authority or can match no namespace, or a file that others may write to, or read though
// it is a key, or that the service cannot read. It looks for the files of -tls once one is
// there. Its status is 1 if something is wrong.
//
// # Token, tokens and revoke
//
// A client that has a repository's token may do there what the token may, with any key.
// Token makes one and prints it, alone on its line; nothing but its SHA-256 is kept.
//
//	-read       it may only read; otherwise, read and publish
//	-expires D  it ends after D (12h, 90d) or on a date (2027-01-31, UTC, or as RFC 3339 has
//	            it); otherwise never
//	-name N     people know it by N; otherwise, by NAMESPACE
//
// NAMESPACE is a namespace, or a pattern of them as in authorized_keys. The token is for
// CI_TOKEN of 9ci, which logs in with it and renews by itself. With stock OpenSSH it gives
// the key a certificate of an hour:
//
//	ssh -i KEY join@HOST login <TOKEN-FILE >KEY-cert.pub
//	ssh -i KEY HOST cat ci/REV/stdout
//
// Login exits with 0, with 1 and one line on standard error if the token lets the key in
// nowhere, and with 75 if that cannot be told at present. The user join may do nothing
// else. A wrong token counts as a login that has failed: see below. 9ci is given the same
// certificate, and gives the open connection the next one before that ends.
//
// The token of a CI job, an id_token that its forge has signed and made out to HOST of -url
// and to the job's key, does the same. The job may read its own repository, and
// publish runs of its own commit alone if no fork can have triggered it: others see of its
// executor what its index and events tell of that commit, and find such runs by commit or
// score, but by no tree, of which nobody here knows whether it is the commit's.
//
// Tokens prints a line for each token: id, name, namespace, rights, when it was made, when
// it expires (or never), and when it was last used (within a minute; - if that is not
// known), quoted as in ci(4). Revoke takes back, and prints what it was, a line each:
//
//	ID or token:ID       that token, and all certificates for it
//	NAME                 all tokens of that name, the same
//	SERIAL               the certificate of that number; its owner may get another
//	KIND:ID              the account, as github:repo:123: all its certificates, and it gets
//	                     no others. @FINGERPRINT after it, as in the log, may stay
//
// If one of them is not known, nothing is revoked. What is revoked ends open connections
// within a second. All three may be used while the orchestrator runs, or not; DIR of the
// service below is /var/lib/9ci-orchestrator, and what root writes there is the service's.
// The accounts of CI jobs are github:repo:ID, gitlab:repo:ID and HOST:repo:ID, with the
// forge's number of the repository.
//
// These are plain files of the state directory. An edit counts at once, but of ca_ed25519
// and forges.used at the next start:
//
//	ca_ed25519       signs the certificates: ca_ed25519.pub can be the TrustedUserCAKeys
//	                 of sshd(8), with AuthorizedPrincipalsFile. Made on a first start
//	tokens           a line a token: attr=value pairs. A line that is deleted ends the token
//	tokens.used      a line a token: its id, and when it was last used. It may be lost
//	issued           a line a certificate that has not expired: serial, principal,
//	                 fingerprint of the key, when it expires, and revoked if it is
//	revoked.krl      what of these is revoked, for RevokedKeys of sshd(8) and ssh-keygen
//	                 -Q. It is written anew; what the operator revokes is in revoked
//	barred           a line an account that may not log in again: principal, since when. Once
//	                 the line is deleted, it may
//	repositories     a line a namespace that a CI job has logged in for, or that somebody may
//	                 enter as a member: the namespace, the forge, and the forge's number of
//	                 the repository. A repository of another number, which has taken the
//	                 name, is refused until the line is deleted
//	forges           the forges whose CI jobs and people may log in: see below
//	forges.used      tokens of GitLab's jobs that name no key, and the key that used each:
//	                 no other may
//	lock             is locked (flock(2)) while one of these is written
//
// # The page
//
// With -web there is a page for people. It shows them what they may read, as 9P shows it, and
// knows nothing else; visitors who have not logged in see what is public (see Who may enter).
// On it people log in, and approve and revoke what lets them in: see # Invite. EXECUTOR/ID is
// a run as in n/EXECUTOR/ci/ID:
//
//	URL/                                   the visitor's namespaces
//	URL/runs/NAMESPACE                     runs, newest first; ?rev=COMMIT, state= and signer=
//	                                       leave others out
//	URL/run/EXECUTOR/ID/NAMESPACE          a run: steps and their logs as they grow, key, manifest,
//	                                       commands that mount and verify it
//	URL/log/EXECUTOR/ID/STEP/NAMESPACE     the log of a step, of all, or of service.NAME; ?from=LINE#LLINE
//	                                       is a line, and ?q=TEXT finds text
//	URL/tests/EXECUTOR/ID/NAMESPACE        its tests, if it tells of them
//	URL/artifacts/EXECUTOR/ID/NAMESPACE    what the run left; ?name=PATH is one of them
//	URL/raw/EXECUTOR/ID/NAMESPACE?name=PATH    its bytes, for a browser that shows the page
//	URL/compare/NAMESPACE?run=A&run=B      two runs EXECUTOR/ID side by side: key, log, artifacts
//	URL/rev/REV/NAMESPACE                  leads to the best run of a revision, or of last
//	URL/badge/NAMESPACE.svg                a picture of the state of the newest run that has ended, or
//	                                       with ?rev=COMMIT of that commit's, where NAMESPACE is public
//	URL/account URL/approve                what lets the visitor in; a key that waits for a code
//
// All but logs as they grow, and passkeys, works without JavaScript. Four comparisons go on at
// once, two at most of one account or address, and each says from which line on it shows no
// more. What an executor serves in a way that cannot be shown is answered by 502, with the
// reason in the log.
//
// The page is served by TLS with the certificate and the key in web.crt and web.key of the
// state directory (browsers know RSA and ECDSA, and no Ed25519), which are read again when
// they have changed.
//
// Without these files, -acme https://acme-v02.api.letsencrypt.org/directory has the
// certificate of HOST from Let's Encrypt, and another URL from another CA, unless it wants
// an account that was made elsewhere (external account binding). The CA connects to port 443
// of HOST (tls-alpn-01), which is to be ADDR, tcp!*!443, or to lead there with TLS and all. A
// certificate is renewed in the last third of its life, 30 days before its end at most. The
// lines acme of the log say when one has come and until when it is good, and what the CA says
// if it gives none: a first one is asked for again after two minutes, then after four, and so
// on up to an hour, and until it has come no browser is answered. The account's key, the
// certificate and its key are in a directory for each CA below acme. A CA that the system does
// not know is one of the roots in the file $SSL_CERT_FILE. If the certificate's key is stolen,
// delete the file acme/CA/HOST, start again, and have the CA revoke the old certificate.
//
// Without a certificate ADDR must be a loopback address or a Unix socket, for a proxy that
// ends TLS. The proxy says X-Forwarded-For, and X-Forwarded-Host if it changes Host; what it
// marks as X-Forwarded-Proto: http is sent to https. It is not to keep what it passes on, nor
// to hold it back: a live log is an answer that goes on for ten minutes. A request with a body
// has its length (Content-Length). From other addresses such headers mean nothing. The page
// answers to the HOST of -url alone. On this machine, -url http://localhost:PORT does without
// TLS. The commands on the page have the port of the first -a that others can reach.
//
// An address, of IPv6 a /64, may log in or try to 60 times at once and once each second after
// that, try 10 codes of keys and then 2 each minute, have 8 keys at once that wait for
// approval, for 10 minutes, and 256 connections with 512 requests under way. An account, and
// an address without a login, may follow 256 live logs and fetch 32 artifacts at once. In all
// the page has 16384 connections, or a quarter of the descriptors that the process may have
// (LimitNOFILE= below); with more, the one makes way that has gone longest without a request.
// Three of four may follow live logs, and 1024 fetch artifacts. What is refused is told so,
// with status 429 or 503 and Retry-After. A log is read once for all that follow it; ten
// thousand get its lines once a second, and cost 500 MB. A visitor that may read it no more gets
// no line of it after a second. A proxy that does not say X-Forwarded-For is one address.
//
// # Invite: people on the page
//
// On the page people log in, by a forge or by a passkey; approve the SSH keys that are theirs;
// and see and revoke what lets them in: keys, certificates, passkeys, browsers.
//
// An account has a principal that never changes: github:ID and gitlab:ID for people of
// github.com and gitlab.com, HOST:ID for those of other forges, passkey:ID for those of no
// forge. The last need an invitation. Invite makes one and prints its URL, alone on its
// line; the first person who opens it and makes a passkey has the account.
//
//	-expires D  it ends after D, or then, as of a token; otherwise after 7 days
//	-name N     people know the account by N
//	-account ACCOUNT  it gives a passkey to an account that is there and has lost its own;
//	            revoke the lost one on the account's page afterwards
//
// The account may read and publish in each NAMESPACE, a namespace or a pattern, whatever a
// forge says. Invite takes URL from the last start with -web unless it is given. Passkeys are
// bound to the HOST of URL, which cannot be an IP address: under another name they log
// nobody in.
//
// The file forges of the state directory has a paragraph for each forge whose CI jobs log
// in, and by which people do; it says itself how one is written, and check what each lets
// in. People log in by a forge if the paragraph has client-id=, what the forge calls the
// orchestrator. It is registered there with the redirect URI URL/callback/HOST, HOST being
// the paragraph's:
//
//	kind=github   a GitHub App, with the permission Metadata: read and no other, and user
//	              tokens that expire. It sees private repositories where it is installed
//	              by their owner; app= is its name in its URL, for a link there. An OAuth
//	              App would need the right to write to all repositories
//	kind=gitlab   an application with the scope read_api, confidential or not
//	kind=forgejo  an OAuth2 application, for Gitea too. Forgejo has no scopes: what it gives
//	              could do all that the person can
//	kind=oidc     any provider of OpenID Connect, with issuer=. It has no repositories: its
//	              people read what is public, and what an invitation gives them
//
// The client's secret is alone in a file, which client-secret-file= names.
//
// What a person may do at the forge, it is asked as that person: see # Keys of people. A
// repository is known by its number: after a rename, its old namespace is nobody's, and
// another that takes its name is kept out by repositories. What a forge gives to ask it so
// is sealed in the account with the key in seal.key, renewed as it ends, and given back
// when its person has logged out of the last browser and with the last key, or the account
// is revoked.
//
// A browser is logged in for 12 hours. Revoke ACCOUNT logs the account out of the page too,
// at once, and forgets what its forge gave for it. These are plain files, and an edit counts
// at once:
//
//	accounts/PRINCIPAL  a file an account; a line that is deleted ends the session, the
//	                    passkey or the namespace that it is for, and without the file there
//	                    is no account. The line of a key is a note: revoke its SERIAL.
//	                    / is written %2F, and % %25
//	invites             a line an invitation that has not been used; not its URL
//	url                 URL of the last start with -web
//	seal.key            without it, everybody logs in again
//
// # Where they come from
//
// A client has 120 seconds and six keys to log in with, as at sshd. An address that
// fails to pays for it: 5 seconds for keys, certificates, a token or a code that may not enter, 10 for
// not being done in time, 1 for what is not SSH, or at -tls not TLS, nothing for leaving
// before, as ssh-keyscan does. From 15 seconds on the address is refused until its
// penalty is over, 10 minutes at most. It is refused too if it opens more than 200
// connections at once and 20 each second after that, or holds more than 32 that have
// not logged in, or its /24 or /48 more than 128. From 64 of these in all, new ones are
// dropped at random, and from 512 on each.
//
// An address from which a key or a token has logged in is spared all of that for a day: others
// behind it cannot keep it out. It may open ten times as many connections, and of 256
// that have not logged in the oldest makes way. Loopback and Unix sockets have no
// penalty. The log tells of each penalty, and once a minute of what an address is
// refused: of all of them in 1000 lines, and 10 more each second, where missed= is as
// below.
//
// The file sources of the state directory has more to say, a line each; an edit counts
// at once:
//
//	balancer ADDRESS[/BITS]...   these send a PROXY header, version 1 or 2, before all
//	                             else: the client's address counts. Without one they
//	                             are refused. From others such a header is garbage
//	exempt ADDRESS[/BITS]...     these are never refused
//	source BITS4 BITS6           how much of an address counts as one; default 32 64
//
// # Keys of people
//
// With stock OpenSSH and a browser a person, github:123 or passkey:ID, gets a certificate of
// twelve hours for its key:
//
//	ssh -i KEY join@HOST login >KEY-cert.pub
//
// Login prints a URL and a code, which the person types on the page there, in a browser
// anywhere. The page shows the key, and login goes on when it is approved, which takes ten
// minutes at most. So it does if two seconds bring no token, on a terminal too. A client
// with a browser on its own machine needs no code: ssh join@HOST page PORT STATE prints a
// URL for it, the browser comes back to that port of 127.0.0.1, and what it brings logs in
// by the same connection. Ssh join@HOST page prints the URL of the page. An open connection
// of 9ci gets the next certificate before the one that it has ends, as long as the account's
// session allows that; then its person has to log in again.
//
// What it may do in the namespaces of its forge, the forge is asked when it is needed: who
// may read a repository there reads its namespace, and who may push publishes. Elsewhere it
// may read and publish where an operator has invited it to. What the forge has said serves
// for five minutes, and if the forge is down no longer. What is in use is asked again before
// that: a connection ends, and its executors leave, within five minutes of losing what it
// does. It is told why, and has what is left to it when it connects again.
//
// A forge that does not answer within five seconds, or is down, is not said to have
// nothing: that is busy, with words where there is room for them, and the log has the
// reason. Of a forge that wants its person to log in again, the words say so. A listing
// asks about a hundred of the namespaces that are exported, and shows what is known then: a
// path leads to any other. One account is in 256 namespaces at once at most.
//
// # What forges are told
//
// With -web, a forge whose paragraph in forges has statuses-secret-file= is told how the runs
// in its namespaces ended: the commit gets the status passed or failed, which leads to
// URL/rev/COMMIT/NAMESPACE. The file that the attribute names has, alone:
//
//	kind=github   the private key of the App of client-id=, a .pem that GitHub makes. The App
//	              has the permission Commit statuses: read and write besides; where its
//	              owner has not agreed to that, runs are told to nobody. For each repository
//	              it takes a token of an hour that can do nothing else
//	kind=gitlab   the access token of a Developer, with the scope api: of a project, a group
//	              or a bot. A commit has to be on a branch
//	kind=forgejo  the access token of somebody who may write to the code, with the scope
//	              write:repository; for Gitea too
//
// Whatever an executor shows there counts, for what it exports it may publish; of a CI job,
// the runs of its own commit. The status's context is 9ci/ARCH, and the targets if they are
// not the default ones: runs of a commit that have these in common stand in each other's
// place. Of these the one that ended last is told. A copy that others have adopted is no
// other run, and a run that ended before the one that was told is not told any more, nor
// after seven days. What was cancelled, or ended in error, says nothing of the commit.
//
// A forge that is down or has had enough is told later, when it says, and one that lets
// nobody write there once an hour at most; the log has the reason once. A commit that the
// forge does not have is told when it has been pushed: the first tries are seconds apart, and
// the others an eighth of the time since the run's end, an hour at most. An executor
// need not stay for that. Of a namespace 100 statuses are told at once, and then six a
// minute. A status that the orchestrator was about to give when it ended, or whose answer
// was lost, is looked for at the forge before it is given again.
//
//	statuses         a line a status: due, begun, told or rejected; namespace, commit and
//	                 context; and the run's status. Of a commit and a context the last line
//	                 counts. It may be lost: the forge is asked then. It is read at the start
//	statuses.lock    is locked by the orchestrator that tells: of two with one state directory,
//	                 the other one begins when that ends
//
// # Mutual TLS
//
// With -tls, a certificate of the operator's own CA enters: there are no keys, and no
// accounts. Its only URI (subjectAltName), ci:NAME or spiffe://TRUST-DOMAIN/PATH, is
// the client's identity, and the first line of authorized_tls that matches the identity
// says what that may do: the options above but for those of certificates, and then the
// identity, in which * matches within an element, a last ... all that follows.
//
//	namespace="github.com/alice/..." spiffe://example.org/ci/...
//	namespace="github.com/alice/*",read ci:reader-*
//
// Without a line a CA grants nothing. An identity owns the executors that it exports:
// give each executor one of its own. In the state directory are tls.crt and tls.key,
// the server's certificate and key; tls-ca.pem, the CAs of clients; and tls-crl.pem, if
// there is one, the lists of what these have revoked, which count after their next
// update too. They are read again when they have changed; while one cannot be, what it
// said before stands. A connection ends with its certificate, and within a second of an
// edit by which it may do something else. All else is as for keys: penalties, limits,
// the audit (key= has the identity) and the end of the orchestrator.
//
//	openssl req -x509 -newkey ed25519 -nodes -days 3650 -subj /CN=ci \
//		-addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out tls-ca.pem
//	openssl req -x509 -newkey ed25519 -nodes -days 365 -subj /CN=HOST \
//		-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:HOST \
//		-CA tls-ca.pem -CAkey ca.key -keyout tls.key -out tls.crt
//	openssl req -x509 -newkey ed25519 -nodes -days 30 -subj /CN=box \
//		-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=URI:ci:box \
//		-CA tls-ca.pem -CAkey ca.key -keyout box.key -out box.crt
//
// 9ci connects to CI_ORCHESTRATOR=tls://HOST:PORT with CI_TLS_CERT, CI_TLS_KEY and
// CI_TLS_CA. Its runs are signed by CI_KEY as ever. Runs come to it by relay: the ways
// direct and e2e are of SSH. Any other client names what it wants by ALPN, which is
// not encrypted:
//
//	openssl s_client -quiet -connect HOST:PORT -alpn 9p ...
//	                     9P on standard input and output; also without a protocol
//	openssl s_client -quiet -connect HOST:PORT -alpn 9p-export ...
//	                     exports the 9P server there, in the namespace of the client's
//	                     line, under the last element of its identity
//	openssl s_client -quiet -connect HOST:PORT -alpn 9p-export/NAMESPACE/n/NAME ...
//	                     exports it in that namespace, under that name
//
// # What they see
//
//	/status /event          of all namespaces that the key may read
//	/HOST/OWNER/REPO/       a namespace; an aname enters it. Of a person's forge any /HOST
//	                        and /HOST/OWNER is there
//	    ci/REV/             the best finished run by commit, tree, a prefix of
//	                        seven or more digits, score, or last
//	    artifacts/REV/      what it left
//	    n/EXECUTOR/         the whole tree of one executor, ci(4): HOST for a daemon,
//	                        HOST.PID for others; the second of a name and key is NAME+2,
//	                        the third NAME+3, and both are told
//	    find                write attr=value pairs of a key, read a line for each run
//	    index               a line for each run, newest first: /n/EXECUTOR/ci/ID, and then
//	                        as in an executor's index; a time in the future counts as now
//	    status event        the executors that are connected, and by a line adopts=NAME
//	                        those that adopt the runs of others; joins, leaves, results
//
// The entries of ci and artifacts, index, and event, are not listed but can be walked to.
// At the root, ci, n, artifacts and find mean those of the key's home namespace:
// the one that its line names, or the only one that it may read. An executor has
// a ctl for the key that exports it and for no other. What is absent and what is
// forbidden answer alike.
//
// # How much one may have
//
// All connections of a key, or over TLS of an identity, count together. There are at
// most 4096 of them, with 8192 channels; 4096 files of executors that commands and sftp
// have open; and by 9P 32768 fids, 16384 requests under way, and 256 MiB that were asked
// for and not taken yet. The nearer that is, the less a read gets, down to 4 KiB, and
// beyond it a client that takes no replies is hung up on after a minute or two. A key
// may announce 4096 namespaces at once, and 128 each second after that. A token, a person,
// and the CI jobs of a repository, get 1000 certificates at once, and 2 each second after
// that. All else over a limit is busy, and so is a connection of over 16384 in all. Nobody
// else's count: those that read one executor share its channels, and none is kept out.
//
// # With stock OpenSSH
//
//	ssh HOST cat ci/REV/stdout       also ls [-1adl], find [-name] [-type] [-maxdepth], tail [-f]
//	                                 [-n N] [-c N], stat and whoami (the key, until when, and what
//	                                 it may do); a path that begins with ci,
//	                                 n or artifacts is in the key's home namespace, or in the one
//	                                 that namespace=NS before the paths names. * ? and [] stand
//	                                 for what directories list, and quotes quote, as in sh(1)
//	ssh HOST told COMMIT             what the forge was told of the commit's runs, a line each: the
//	                                 page, or -; the forge that is told, or -; and each status:
//	                                 due, begun, told or rejected, its context, the run's status,
//	                                 and why the forge has not got it, or -. 9ci vouch asks the
//	                                 same, at -tls too
//	ssh HOST logout                  revokes all certificates of the orchestrator's own that the key
//	                                 has as this account, at once
//	ssh HOST wait REV                waits for a run that is under way or, if none is, for the
//	                                 first to come unless one has ended; prints its status, and
//	                                 exits with 0 if it passed. Also the path of a run
//	ssh HOST tail -f PATH            what a file has, and what comes until its run has ended
//	ssh -t HOST COMMAND              the same on a terminal: lines end in CR LF, ^C ends it
//	sftp, scp, sshfs HOST:           the tree, read-only, where nothing blocks: live and event end at
//	                                 their current end, and wait cannot be opened before the run has
//	                                 ended: ssh HOST wait PATH-OF-RUN waits
//	scp -O HOST:PATH DIR             the same by the old protocol of scp; -r follows no link to a
//	                                 directory
//	sshfs HOST:ci/REV/ DIR           a run by its alias: ci/REV is a directory here, as sshfs refuses
//	                                 links that go up; at an executor the slash makes it one
//	ssh -J HOST EXECUTOR COMMAND     the same commands, sftp and 9p at the executor's own SSH
//	                                 server, end to end: its host key is the executor's key. There,
//	sh [-root] [REV]                 with ssh -t, is a shell in the machine of a run that failed, if
//	                                 the executor holds that, for its own key and those in its
//	                                 shell_keys: 9ci(1)
//	ssh -s HOST 9p                   9P on standard input and output, for 9pserve or socat
//	ssh -s HOST 9p/EXECUTOR          9P with that executor's tree as its root
//	ssh -s HOST 9p-export            exports the 9P server on standard input and output
//	ssh -R 564:HOST:PORT HOST        exports a 9P server on a port: no port is opened
//	ssh -R /9p/NAMESPACE/n/NAME:SOCKET HOST
//	                                 exports one on a socket, under that name
//
// If a stock client that exports does not name its namespace or itself, these come
// from its key's line: from namespace=, and from the host in a comment user@host.
// A 9P server that knows no namespaces is exported by its root. It is attached as the
// user orchestrator, with the namespace as aname or else none, and has to take the
// requests of a connection in their order. Diod is no such server: it looks up the user,
// wants its path as aname, and answers in any order.
// A name is its key's, and for a minute after its executors have left: another key is
// refused, and has it then if it asks again, as a daemon does. Why -R is refused, ssh
// prints as "WARNING: Server requests forwarding for unknown path", for want of a
// message of its own.
//
// These commands exit with 0, with 1 if one of the files is not there or cannot be
// read, with 75 if all that failed was that a server is busy, which may be tried
// again, with 2 if they were misused, and with 127 if there is no such command. Busy
// is "Resource temporarily unavailable" in 9P2000 and SFTP, and EAGAIN in 9P2000.L.
//
// # Host keys
//
// Every file ssh_host_*_key of the state directory is a host key, read at the start. A
// client is shown one of the type that it asks for: of several, ssh_host_ed25519_key
// and then the first by name. After a login stock ssh learns the others and forgets
// those that are gone (UpdateHostKeys); 9ci does not, and takes lines of known_hosts. So
// a key is changed without a warning to anybody:
//
//	ssh-keygen -t ed25519 -N '' -f ssh_host_ed25519_next_key     and start again
//	for s in '' .pub; do mv ssh_host_ed25519_next_key$s ssh_host_ed25519_key$s; done
//	                                     weeks later, and start again
//
// # Log
//
// The log is on standard error, a line of attr=value for each event: time, level, msg
// and what follows. Values are quoted as in Go where they have blanks or characters
// that do not print. These lines, of level info and warn, are the audit. All have the
// key (its fingerprint; of a login that was refused, all that were offered, with
// commas; over TLS, the identity), the principal (of a key, the comment of its line; of
// a certificate, PRINCIPAL@FINGERPRINT of its authority; over TLS, the identity's last
// element) and the addr:
//
//	login    the key or certificate has logged in; serial= is the certificate's; over TLS,
//	         alpn= is the protocol
//	ask      the key waits for a person to approve it on the page
//	issue    a token or a person has given the key a certificate; serial=, expires=
//	renew    the connection has another certificate from now on; serial=, expires=
//	revoke   the token, account or certificate, serial=, has been revoked; it has no addr
//	refuse   what=login, token, approve, announce, forward or namespace was refused; err
//	         says why. What a visitor of the page may not read is a namespace with
//	         key=page:PRINCIPAL, or key=public of one who has not logged in, and with the
//	         addr of the visitor.
//	         The client of a namespace= is told no more than "file not found", or that
//	         a forge does not answer, and that of a token no more than that
//	join     an executor= shows its runs in a namespace=; generation= counts
//	leave    it no longer does
//	adopt    it has a run= of a score= that another key, signer=, has signed: by its
//	         own account, which nobody has checked here
//	follow   its index or events cannot be read; err says why
//	status   the forge has been told that the run of a commit= of a namespace= has the state=
//	         by a context=; or it has not, and err says why. It has no key, principal and addr
//	silent   a client did not answer, and its connection ends
//	page     on the page, the account has done what= login (by= a forge or a passkey), logout,
//	         approve (of a key=, which asked from=), passkey, invite or revoke (of a key=,
//	         certificate=, passkey= or session=); refuse with what=page-login and so on is of
//	         the page too. They have no key of a login.
//	         With path= and err= it is a page that could not be shown, of which each address
//	         has as many lines as one that has not logged in
//
// A key that has logged in gets 2048 such lines, and 2 more each second; an address
// that has not gets 20, and 6 more each minute; all of these together get 1000, and
// 10 more each second. missed= says how many lines before it were left out.
//
// # As a service
//
// At the first SIGINT, SIGTERM or SIGHUP it takes no more connections, channels and
// announcements, says so to all clients, which ask again, and lets transfers that are
// under way go on for 30 s at most; a mount that does nothing is none. Executors
// connect again. At the second it ends at once. A SIGHUP that its parent ignores, as
// nohup(1) does, is none.
//
// It tells systemd when it is ready, alive and stopping (sd_notify(3)), and serves
// sockets that systemd passes: by their FileDescriptorName, ssh instead of the default
// of -a, tls for -tls, web for -web, and metrics. Mk install, and Debian's package
// 9ci-orchestrator, put the units in lib/systemd/system, and start none:
//
//	systemctl enable --now 9ci-orchestrator            metrics are at tcp!127.0.0.1!9222
//	journalctl -u 9ci-orchestrator
//	systemctl edit 9ci-orchestrator                    for other flags:
//
//	[Service]
//	ExecStart=
//	ExecStart=orchestrator -metrics tcp!127.0.0.1!9222 -url https://ci.example.org
//
// The service is a user of its own, and may do little. A restart at which no connection is
// refused needs 9ci-orchestrator.socket too, to be enabled alike. So does a port below 1024,
// which systemctl edit 9ci-orchestrator.socket sets:
//
//	[Socket]
//	ListenStream=
//	ListenStream=22
//
// A page that has its certificate by -acme, with -url and -acme in ExecStart=, needs
// 9ci-orchestrator-web.socket, of port 443. To purge the package removes the state directory.
//
// # Help and version
//
// Help prints what this manual says of a command, or another section by its title; of 9ci,
// orchestrator, mk, ci or tutorial, that whole manual; and without a name, what there is.
// Version prints the revision of the sources that the orchestrator was built of.
//
// # Files
//
//	ssh_host_ed25519_key ssh_host_ed25519_key.pub
//	ssh_host_*_key                    others
//	authorized_keys
//	revoked sources public            if there are any
//	ca_ed25519 ca_ed25519.pub tokens tokens.used issued revoked.krl barred repositories lock
//	authorized_tls tls.crt tls.key tls-ca.pem tls-crl.pem    for -tls
//	accounts invites url seal.key web.crt web.key acme     for -web
//	forges forges.used statuses statuses.lock
//
// # Exit status
//
// 0 after one or two of SIGINT, SIGTERM and SIGHUP, 1 if it cannot serve, a command cannot
// do what it was told to, or check finds something wrong, 2 if its flags are wrong.
//
// # See also
//
// ci(4), 9ci(1); orchestrator help ci prints ci(4). In the sources, go doc 9ci/orchestrator
// says how it works.
package main
