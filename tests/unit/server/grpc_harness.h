// A Server in this process with a scripted engine behind it, and a client on a real connection.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvcrush/v1/inference.grpc.pb.h"
#include "server/server.h"
#include "tests/unit/server/scripted_backend.h"
#include "tests/unit/server/test_models.h"

namespace kvcrush::test {

inline ServerConfig server_config() {
  ServerConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "";
  config.engine.kv_memory_bytes = 1 << 20;
  config.compression = compression_defaults({}, KvDtype::kF32).value();
  config.drain_timeout = std::chrono::milliseconds(200);
  return config;
}

class GrpcTest : public ::testing::Test {
 protected:
  void start(ServerConfig config = server_config()) {
    server_ = std::make_unique<Server>(std::move(config));
    const Status listening = server_->listen();
    ASSERT_TRUE(listening.ok()) << listening.message();
    connect();
    const auto loader = [this](const ServerConfig&, EngineObserver& observer, const LoadProgress&) {
      observer_ = &observer;
      return Result<LoadedModel>(scripted_model());
    };
    const Status loading = server_->load(loader);
    ASSERT_TRUE(loading.ok()) << loading.message();
  }

  void connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->grpc_port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  LoadedModel scripted_model() {
    LoadedModel model;
    auto backend = std::make_unique<ScriptedBackend>();
    backend_ = backend.get();
    model.backend = std::move(backend);
    model.tokenizer = byte_tokenizer();
    model.chat_template = plain_template();
    model.name = "scripted";
    model.config.architecture = "llama";
    model.config.num_layers = 2;
    return model;
  }

  static v1::GenerateRequest request(const std::string& id, const std::string& prompt = "hello") {
    v1::GenerateRequest request;
    request.set_request_id(id);
    request.set_text(prompt);
    return request;
  }

  // The serving status byte of grpc.health.v1.HealthCheckResponse: 1 serving, 2 not serving; -1 on failure.
  int health(const std::string& service) {
    std::string message;
    if (!service.empty()) message = std::string("\x0A") + static_cast<char>(service.size()) + service;
    std::string answer;
    if (!call_raw("/grpc.health.v1.Health/Check", message, &answer).ok() || answer.size() != 2) return -1;
    return answer[1];
  }

  // A unary call with bytes that no client library would let through.
  grpc::Status call_raw(const std::string& method, const std::string& message,
                        std::string* answer = nullptr) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    patient(context);
    grpc::CompletionQueue queue;
    grpc::Slice slice(message);
    const grpc::ByteBuffer request(&slice, 1);
    const auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    std::vector<grpc::Slice> slices;
    if (answer != nullptr && status.ok() && response.Dump(&slices).ok()) {
      for (const grpc::Slice& part : slices)
        answer->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
    return status;
  }

  static void patient(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
  }

  std::unique_ptr<Server> server_;
  ScriptedBackend* backend_ = nullptr;  // the server's
  EngineObserver* observer_ = nullptr;  // the server's; the engine's part is the test's to play
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

// All of a stream: per sample the text and the last chunk, and the status.
struct StreamResult {
  std::map<int, std::string> text;
  std::map<int, v1::FinishInfo> finish;
  std::map<int, int> num_finishes;
  int num_chunks = 0;
  int num_tokens = 0;
  grpc::Status status;
};

inline StreamResult read_all(grpc::ClientReader<v1::GenerateResponse>& reader) {
  StreamResult result;
  v1::GenerateResponse chunk;
  while (reader.Read(&chunk)) {
    ++result.num_chunks;
    result.num_tokens += chunk.token_ids_size();
    result.text[chunk.index()] += chunk.text();
    if (chunk.has_finish()) {
      result.finish[chunk.index()] = chunk.finish();
      ++result.num_finishes[chunk.index()];
    }
  }
  result.status = reader.Finish();
  return result;
}

}  // namespace kvcrush::test
