// Tokens, tenants and limits, over real connections to a server in this process.
#include <spdlog/sinks/ostream_sink.h>

#include <set>

#include "tests/unit/server/security_harness.h"

namespace kvcrush::test {
namespace {

using grpc::StatusCode;

TEST_F(Security, RefusalsDoNotSayWhatWasWrong) {
  start_with_tokens(entry("good") + "," + entry("old", R"(, "expires": "2020-01-01T00:00:00Z")"));
  std::set<std::string> messages;
  const auto refused = [&](const std::vector<std::string>& values) {
    grpc::ClientContext context;
    patient(context);
    for (const std::string& value : values) context.AddMetadata("authorization", value);
    const grpc::Status status = info(context);
    EXPECT_EQ(status.error_code(), StatusCode::UNAUTHENTICATED);
    messages.insert(status.error_message());
  };
  refused({});
  refused({"Basic good-secret"});
  refused({"good-secret"});
  refused({"Bearer "});
  refused({"Bearer wrong-secret"});
  refused({"Bearer good-secret "});
  refused({"Bearer good-secret", "Bearer good-secret"});
  refused({"Bearer old-secret"});
  EXPECT_EQ(messages.size(), 1u);
  EXPECT_TRUE(info(*as("good")).ok());
  grpc::ClientContext lower;
  lower.AddMetadata("authorization", "bearer good-secret");
  EXPECT_TRUE(info(lower).ok());
  EXPECT_TRUE(shows("kvcrush_auth_failures_total{reason=\"missing\"} 3"));
  EXPECT_TRUE(shows("kvcrush_auth_failures_total{reason=\"unknown\"} 4"));
  EXPECT_TRUE(shows("kvcrush_auth_failures_total{reason=\"expired\"} 1"));
}

TEST_F(Security, EveryCallIsCheckedBeforeItIsRead) {
  start_with_tokens(entry("good"));
  const google::protobuf::ServiceDescriptor& service =
      *google::protobuf::DescriptorPool::generated_pool()->FindServiceByName("kvcrush.v1.Inference");
  for (int i = 0; i < service.method_count(); ++i) {
    const std::string path = "/kvcrush.v1.Inference/" + service.method(i)->name();
    EXPECT_EQ(call_raw(path, "\xFF no message").error_code(), StatusCode::UNAUTHENTICATED) << path;
  }
  EXPECT_EQ(call_raw("/kvcrush.v1.Inference/NoSuchCall", "").error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call_raw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "").error_code(),
            StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(call_raw("/grpc.health.v1.Health/Check", "").ok());
}

TEST_F(Security, ReflectionCanBeTurnedOff) {
  const std::string path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  ServerConfig config = server_config();
  start(config);
  EXPECT_NE(call_raw(path, "\x3A\x01*").error_code(), StatusCode::UNIMPLEMENTED);
  server_.reset();
  config.security.reflection = false;
  start(config);
  EXPECT_EQ(call_raw(path, "\x3A\x01*").error_code(), StatusCode::UNIMPLEMENTED);
}

TEST_F(Security, TenantsDoNotSeeOneAnother) {
  start_with_tokens(entry("a") + "," + entry("a2", R"(, "tenant": "a")") + "," + entry("b") + "," +
                    entry("ops", R"(, "scopes": ["admin"])"));
  Running first = run("a", "r-a");
  Running second = run("b", "r-b");
  EXPECT_EQ(listed("a"), std::vector<std::string>{"r-a"});
  EXPECT_EQ(listed("a2"), std::vector<std::string>{"r-a"});
  EXPECT_EQ(listed("b"), std::vector<std::string>{"r-b"});
  EXPECT_EQ(listed("ops"), (std::vector<std::string>{"r-a", "r-b"}));
  const grpc::Status foreign = abort("b", "r-a");
  EXPECT_EQ(foreign.error_code(), StatusCode::NOT_FOUND);
  std::string absent = abort("b", "r-x").error_message();
  absent.replace(absent.find("r-x"), 3, "r-a");
  EXPECT_EQ(foreign.error_message(), absent);
  EXPECT_TRUE(backend_->finished().empty());
  EXPECT_TRUE(abort("a2", "r-a").ok());
  EXPECT_EQ(read_all(*first.reader).finish[0].reason(), v1::FINISH_REASON_ABORT);
  EXPECT_TRUE(abort("ops", "r-b").ok());
  EXPECT_EQ(read_all(*second.reader).finish[0].reason(), v1::FINISH_REASON_ABORT);
}

TEST_F(Security, AnIdThatIsUsedAgainShowsNoOtherTenantsRequest) {
  start_with_tokens(entry("a") + "," + entry("b"));
  SequenceStats ended;
  ended.request_id = "r";
  ended.tenant = "b";
  ended.state = "decode";
  backend_->already_ended = {ended};
  Running running = run("a", "r");
  EXPECT_EQ(listed("a"), std::vector<std::string>{"r"});
  end(running, "r");
}

TEST_F(Security, ScopesSayWhoMayGenerate) {
  start_with_tokens(entry("ops", R"(, "scopes": ["admin"])"));
  v1::GenerateOnceResponse once;
  EXPECT_EQ(stub_->GenerateOnce(as("ops").get(), request("r"), &once).error_code(),
            StatusCode::PERMISSION_DENIED);
  v1::TokenizeRequest tokenize;
  tokenize.set_text("x");
  v1::TokenizeResponse tokens;
  EXPECT_EQ(stub_->Tokenize(as("ops").get(), tokenize, &tokens).error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(info(*as("ops")).ok());
}

TEST_F(Security, XTenantIsCheckedAndMayNotContradictTheToken) {
  start_with_tokens(entry("a"));
  for (const auto& [tenant, code] :
       {std::pair{"a", StatusCode::OK}, std::pair{"b", StatusCode::PERMISSION_DENIED},
        std::pair{"a b", StatusCode::INVALID_ARGUMENT}}) {
    const auto context = as("a");
    context->AddMetadata("x-tenant", tenant);
    EXPECT_EQ(info(*context).error_code(), code) << tenant;
  }
}

TEST_F(Security, WithoutTokensXTenantIsOnlyALabel) {
  start();
  const auto with_tenant = [&](const std::vector<std::string>& tenants) {
    grpc::ClientContext context;
    patient(context);
    for (const std::string& tenant : tenants) context.AddMetadata("x-tenant", tenant);
    return info(context);
  };
  EXPECT_TRUE(with_tenant({}).ok());
  EXPECT_TRUE(with_tenant({"a.b_c-9"}).ok());
  EXPECT_TRUE(with_tenant({std::string(64, 'x')}).ok());
  for (const std::vector<std::string>& bad :
       std::vector<std::vector<std::string>>{{""}, {"a/b"}, {std::string(65, 'x')}, {"a", "a"}}) {
    const grpc::Status status = with_tenant(bad);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << bad[0];
    EXPECT_NE(status.error_message().find("x-tenant"), std::string::npos);
  }
  // Nobody has proved to be anybody: all see and may end everything.
  Running running = run("ignored", "r");
  EXPECT_EQ(listed("other"), std::vector<std::string>{"r"});
  EXPECT_TRUE(abort("other", "r").ok());
  EXPECT_TRUE(read_all(*running.reader).status.ok());
}

TEST_F(Security, RunningRequestsAreLimited) {
  start_with_tokens(entry("a", R"(, "max_concurrent_requests": 1)") + "," + entry("b"));
  Running first = run("a", "r1");
  const auto context = as("a");
  const StreamResult second = read_all(*stub_->Generate(context.get(), request("r2")));
  EXPECT_EQ(second.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(second.status.error_message().find("max_concurrent_requests = 1"), std::string::npos);
  std::set<int> hints{hint_ms(*context)};
  for (int i = 0; i < 8; ++i) {
    const auto next = as("a");
    read_all(*stub_->Generate(next.get(), request("r2")));
    hints.insert(hint_ms(*next));
  }
  EXPECT_GT(hints.size(), 5u) << "refused together, they come back together";
  EXPECT_GE(*hints.begin(), 1000);  // never before a place may be free
  EXPECT_LE(*hints.rbegin(), 1250);
  Running other = run("b", "r3");
  end(other, "r3");
  end(first, "r1");
  Running again = run("a", "r4");  // the end that the client saw has freed the place
  again.context->TryCancel();
  read_all(*again.reader);
  ASSERT_TRUE(backend_->wait_idle_long());
  v1::GenerateRequest bad = request("r5", "");
  v1::GenerateOnceResponse response;
  const auto place_is_free = [&] {
    return stub_->GenerateOnce(as("a").get(), bad, &response).error_code() == StatusCode::INVALID_ARGUMENT;
  };
  EXPECT_TRUE(eventually(place_is_free));
  EXPECT_TRUE(place_is_free());  // refused requests keep none either
  EXPECT_FALSE(shows("kvcrush_token_limited_requests_total{limit=\"concurrent_requests\"} 0"));
}

TEST_F(Security, RequestsPerMinuteAreLimited) {
  start_with_tokens(entry("a", R"(, "max_requests_per_minute": 2)"));
  v1::TokenizeRequest tokenize;
  tokenize.set_text("x");
  v1::TokenizeResponse tokens;
  EXPECT_TRUE(stub_->Tokenize(as("a").get(), tokenize, &tokens).ok());
  EXPECT_TRUE(stub_->Tokenize(as("a").get(), tokenize, &tokens).ok());
  const auto context = as("a");
  v1::GenerateOnceResponse once;
  EXPECT_EQ(stub_->GenerateOnce(context.get(), request("r"), &once).error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_GT(hint_ms(*context), 25'000);
  EXPECT_LE(hint_ms(*context), 37'500);
  EXPECT_TRUE(info(*as("a")).ok());  // reading is free
  EXPECT_TRUE(shows("kvcrush_token_limited_requests_total{limit=\"requests_per_minute\"} 1"));
  EXPECT_TRUE(shows("kvcrush_rejected_requests_total{code=\"RESOURCE_EXHAUSTED\"} 1"));
  EXPECT_TRUE(shows("kvcrush_shed_requests_total{reason=\"tenant_limit\"} 1"));
}

TEST_F(Security, TokensOfARequestAreLimited) {
  start_with_tokens(entry("a", R"(, "max_tokens_per_request": 100)"));
  const auto max_tokens = [&](v1::GenerateRequest wanted) {
    Running running{as("a"), nullptr};
    running.reader = stub_->Generate(running.context.get(), wanted);
    EXPECT_TRUE(backend_->wait_live(wanted.request_id()));
    const int limit = backend_->last_request().sampling.max_tokens;
    end(running, wanted.request_id());
    return limit;
  };
  EXPECT_EQ(max_tokens(request("default")), 100);
  v1::GenerateRequest several = request("several");
  several.mutable_sampling()->set_n(3);
  EXPECT_EQ(max_tokens(several), 33);
  several.mutable_sampling()->set_max_tokens(33);
  EXPECT_EQ(max_tokens(several), 33);
  v1::GenerateOnceResponse response;
  const auto refused = [&](const v1::GenerateRequest& wanted) {
    const grpc::Status status = stub_->GenerateOnce(as("a").get(), wanted, &response);
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_NE(status.error_message().find("max_tokens_per_request is 100"), std::string::npos)
        << status.error_message();
  };
  several.mutable_sampling()->set_max_tokens(34);
  refused(several);
  v1::GenerateRequest least = request("least");
  least.mutable_sampling()->set_min_tokens(101);
  refused(least);
  v1::GenerateRequest many = request("many");
  for (int i = 0; i < 101; ++i) many.add_variants();
  refused(many);
}

TEST_F(Security, TheTokenFileIsReadAgain) {
  start_with_tokens(entry("a"));
  Running running = run("a", "r");
  write_tokens(entry("b"));
  EXPECT_TRUE(eventually([this] { return info(*as("b")).ok(); }));
  EXPECT_EQ(info(*as("a")).error_code(), StatusCode::UNAUTHENTICATED);
  end(running, "r");  // what runs goes on
  EXPECT_TRUE(shows("kvcrush_auth_token_reloads_total{result=\"ok\"} 1"));
  write_file(path_, R"({"tokens": [)");
  EXPECT_TRUE(eventually([this] { return shows("kvcrush_auth_token_reloads_total{result=\"failed\"} 1"); }));
  EXPECT_TRUE(info(*as("b")).ok());
  write_tokens(entry("c"));
  EXPECT_TRUE(eventually([this] { return info(*as("c")).ok(); }));
}

TEST_F(Security, ABadTokenFileStopsTheStart) {
  write_file(path_, "no json");
  ServerConfig config = server_config();
  config.security.auth_tokens = path_;
  const Status status = Server(config).listen();
  EXPECT_EQ(status.code(), kvcrush::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("--auth-tokens is \"" + path_ + "\""), std::string::npos)
      << status.message();
}

TEST_F(Security, PromptsAreLoggedOnlyWhenAskedFor) {
  for (const bool asked : {false, true}) {
    std::ostringstream log;
    init_logging({"trace", LogFormat::kText}, {std::make_shared<spdlog::sinks::ostream_sink_mt>(log)});
    ServerConfig config = server_config();
    config.security.log_prompts = asked;
    start(config);
    backend_->on_submit = [this](const std::string& id) {
      static_cast<void>(backend_->finish(id, FinishReason::kStop, std::nullopt));
    };
    v1::GenerateOnceResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(
        stub_->GenerateOnce(&context, request("r", "sentinel " + std::string(5000, 'x')), &response).ok());
    server_->drain();
    init_logging({});
    EXPECT_EQ(log.str().find("sentinel") != std::string::npos, asked) << log.str();
    EXPECT_EQ(log.str().find("prompts_logged") != std::string::npos, asked);
    EXPECT_EQ(log.str().find(std::string(1024, 'x')), std::string::npos);
  }
}

}  // namespace
}  // namespace kvcrush::test
