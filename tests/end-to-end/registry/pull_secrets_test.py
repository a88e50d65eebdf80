"""Pods that pull with the secrets they name, and with the node's own credentials, from a registry that asks for users."""

import base64
import json
import os
import sys
import unittest

import contained
import pods

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import registry_test  # noqa: E402
import servers  # noqa: E402


@unittest.skipUnless(registry_test.HAS_TOOLS, "docker-registry, skopeo and htpasswd are needed: packaging/dependencies.sh test")
class PodsWithPullSecrets(registry_test.PodsFromRegistries):
    def arrange(self):
        self.registry = self.start(servers.Registry(self.folder("registry"), users={"ada": "very-secret", "bob": "also-secret"}))

    def prepare(self):
        super().prepare()
        self.credentials = self.folder("config.json")
        self.node.plugins["node-agent"]["config"]["imageCredentials"] = self.credentials

    def push(self, name):
        self.skopeo("--dest-creds", "ada:very-secret", "docker-archive:" + pods.image_archive(), f"docker://{self.registry.name}/test/{name}:1")

    def logins(self, **users):
        """path -> "user:password" as docker's config.json."""
        return json.dumps({"auths": {self.registry.name + path: {"auth": base64.b64encode(user.encode()).decode()} for path, user in users.items()}})

    def secret(self, name, user, **fields):
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **fields}, "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": self.logins(**{"": user})}}

    def drop_with(self, name, policy, *secrets):
        made = pods.pod(name, {"name": "main", "image": f"{self.registry.name}/test/web:1", "imagePullPolicy": policy,
                               "command": ["/bin/workload"], "args": ["sleep"]})
        made["spec"]["imagePullSecrets"] = [{"name": secret} for secret in secrets]
        self.node.drop(made)

    def apply(self, *documents, check=True):
        path = self.folder("apply.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n---\n".join(json.dumps(document) for document in documents))
        return self.node.pintle("pod", "apply", "-f", path, check=check)

    def told(self):
        """All that the node says of its pods and to its log."""
        with open(self.node.log, encoding="utf-8") as log:
            return log.read() + self.node.pintle("pod", "describe", "web", check=False).stdout + "".join(pod.json for pod in self.node.pods().values())

    test_pull_policies = None  # needs no secret

    def test_pods_pull_with_their_secrets(self):
        self.push("web")
        self.drop_with("web", "IfNotPresent", "registry")
        self.waits("web", "ErrImagePull", "ImagePullBackOff")
        self.assertIn("FailedToRetrieveImagePullSecret", self.node.pintle("pod", "describe", "web"))
        # The wrong user comes first and is passed over, also where others have pulled the image; a secret of another namespace is none.
        done = self.apply(self.secret("wrong", "bob:very-secret"), self.secret("registry", "ada:very-secret"),
                          self.secret("elsewhere", "ada:very-secret", namespace="other"))
        self.assertIn("secret/", done)
        self.assertIn("unchanged", self.apply(self.secret("registry", "ada:very-secret")))
        self.drop_with("tries", "Always", "wrong", "registry")
        self.runs("tries")
        # An image that is here: who always asks is let in only with a user, whoever pulled it before.
        self.drop_with("always", "Always", "registry")
        self.drop_with("stranger", "Always", "elsewhere")
        self.runs("always", "web")
        self.waits("stranger", "ErrImagePull", "ImagePullBackOff")
        for hidden in ("very-secret", base64.b64encode(b"ada:very-secret").decode()):
            self.assertNotIn(hidden, self.told())
        refused = self.apply({**self.secret("bad", "ada:very-secret"), "type": "Opaque"}, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("only Secrets for registries", refused.stderr)
        self.assertNotIn("very-secret", refused.stderr)

    def test_the_nodes_own_credentials(self):
        self.push("web")
        self.drop_with("web", "IfNotPresent")
        self.waits("web", "ErrImagePull", "ImagePullBackOff")
        with open(self.credentials, "w", encoding="utf-8") as file:
            # The longer path counts first, and is right.
            file.write(self.logins(**{"": "ada:wrong", "/test": "ada:very-secret", "/team": "bob:wrong"}))
        self.drop_with("second", "Always")
        self.runs("second", "web")
        self.assertNotIn("very-secret", self.told())


if __name__ == "__main__":
    contained.main()
