# Commands for users and developers. The work is done in scripts/ and e2e/kubernetes/.
cluster := e2e/kubernetes/cluster.sh

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## From nothing to a replicated SET on a real Kubernetes of three nodes (or on yours: KUBECONFIG)
	@scripts/demo.sh

test: ## Everything: format, lints, generated files, unit, integration and end-to-end tests
	@scripts/test.sh all

stories: ## All end-to-end stories; STORY=name for some of them, TIMES=3 for several times in a row
	@scripts/stories.sh all $(if $(TIMES),--times $(TIMES)) $(STORY)

check: ## The inner loop: format, lints, unit tests
	@scripts/test.sh quick

book: ## The documentation as a book with a search, in target/book
	@scripts/book.sh

bench: ## heliosd beside etcd and Redis on this machine: speed and the write gap (scripts/bench.sh --help for more)
	@scripts/bench.sh

bench-scale: ## Costs of heliosd at 5 million keys, up to an hour; KEYS=1000000, ARGS='--engine redb' and the like
	@scripts/bench.sh --parts scale --report bench/reports/$$(date +%F)-scale.md $(if $(KEYS),--keys $(KEYS)) $(ARGS)

bench-backup: ## Costs of backups at 1 GiB of keys and values, ten minutes; KEYS=1000000, ARGS='--entries 100000' and the like
	@scripts/bench.sh --parts backup --report bench/reports/$$(date +%F)-backup.md $(if $(KEYS),--keys $(KEYS)) $(ARGS)

bench-sidecar: ## The sidecar in Replica mode, and 500 replicas that follow the members, four minutes; ARGS='--followers 50' and the like
	@scripts/bench.sh --parts sidecar --report bench/reports/$$(date +%F)-sidecar.md $(if $(KEYS),--keys $(KEYS)) $(ARGS)

fix: ## Format, apply lint suggestions, write the generated files again
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo run --bin crdgen

cluster: ## Start the local Kubernetes only, or repair it
	@$(cluster) up

kubeconfig: ## Print the path of the local cluster's kubeconfig, and nothing else
	@$(cluster) kubeconfig

images: ## Build the images and load them into the cluster's nodes
	@scripts/images.sh

down: ## Stop and remove the local Kubernetes; nothing is left running
	@$(cluster) down

clean: clean-log-db ## Remove build results, the cluster's programs, logs and databases
	cargo clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/helios"

clean-log-db: ## Remove logs and databases, of the local Kubernetes too; keep build results
	@$(cluster) down
	rm -rf helios-data

.PHONY: help demo test stories check book bench bench-scale bench-backup bench-sidecar fix cluster kubeconfig images down clean clean-log-db
